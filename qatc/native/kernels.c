/* Fake quantization on a CPU in one pass over the values, where whole-tensor operators take five or six.

   A tensor is rows of `inner` values; row r belongs to channel r % channels, which has its own scale and zero point.
   Every operation is the float32 one that the operators of PyTorch do, in their order, so the bits are theirs. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    ptrdiff_t rows, channels, inner;
    float qmin, qmax, above; /* the lowest code counts as not clipped from `above` steps over it */
    int threads;
} Shape;

enum {
    PIECE = 1 << 15, /* values that a thread takes at a time */
    WORD = 32,       /* values whose bits are one word */
    LANES = 16,      /* partial sums that fit a register */
};

/* Round half to even, for |v| < 2^22: the sum has no room for a fraction. */
static inline float to_even(float v) {
    const float large = 12582912.0f; /* 1.5 * 2^23 */
    return (v + large) - large;
}

/* A NaN stays one, as in torch.clamp. */
static inline float clamp(float v, float low, float high) {
    v = v < low ? low : v;
    return v > high ? high : v;
}

typedef struct {
    ptrdiff_t row, start, end;
} Span;

typedef struct {
    Span at;
    float scale, low, high;
} Piece;

static inline ptrdiff_t pieces_per_row(const Shape *s) { return (s->inner + PIECE - 1) / PIECE; }

static inline ptrdiff_t pieces(const Shape *s) { return s->rows * pieces_per_row(s); }

static inline Span span(const Shape *s, ptrdiff_t i) {
    ptrdiff_t row = i / pieces_per_row(s), from = (i % pieces_per_row(s)) * PIECE;
    ptrdiff_t to = from + PIECE < s->inner ? from + PIECE : s->inner;
    return (Span){row, row * s->inner + from, row * s->inner + to};
}

static inline ptrdiff_t word_of(const Shape *s, const Span *p) {
    return p->row * ((s->inner + WORD - 1) / WORD) + (p->start - p->row * s->inner) / WORD;
}

static inline Piece piece(const Shape *s, ptrdiff_t i, const float *scale, const float *zero) {
    Span at = span(s, i);
    ptrdiff_t channel = at.row % s->channels;
    return (Piece){at, scale[channel], (s->qmin - zero[channel]) + s->above, s->qmax - zero[channel]};
}

/* n values, at most WORD of them: write them on the grid, return a bit for each that was clipped. */
static inline uint32_t put(const Piece *p, const float *x, float *out, ptrdiff_t n) {
    uint32_t word = 0;
    for (ptrdiff_t j = 0; j < n; j++) {
        float ratio = x[j] / p->scale, kept = clamp(ratio, p->low, p->high);
        word |= (uint32_t)(ratio != kept) << j;
        out[j] = to_even(kept) * p->scale;
    }
    return word;
}

/* Write x on its grid; `clipped`, if there is one, gets a bit per value, 1 where it was not between the ends; each row
   begins with a word of its own. Return whether any was. */
int fake_quantize(const Shape *s, const float *x, const float *scale, const float *zero, float *out,
                  uint32_t *clipped) {
    uint32_t any = 0;
#pragma omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1) reduction(| : any)
    for (ptrdiff_t i = 0; i < pieces(s); i++) {
        Piece p = piece(s, i, scale, zero);
        ptrdiff_t k = p.at.start;
        if (clipped) {
            uint32_t *word = clipped + word_of(s, &p.at);
            for (; k + WORD <= p.at.end; k += WORD)
                any |= *word++ = put(&p, x + k, out + k, WORD);
            if (k < p.at.end)
                any |= *word = put(&p, x + k, out + k, p.at.end - k);
        } else
            for (; k < p.at.end; k++)
                out[k] = to_even(clamp(x[k] / p.scale, p.low, p.high)) * p.scale;
    }
    return any != 0;
}

static inline void let_through(uint32_t word, const float *grad, float *out, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j++)
        out[j] = (word >> j) & 1 ? 0.0f : grad[j];
}

/* Write the gradient where nothing was clipped, zero elsewhere. */
void pass_unclipped(const Shape *s, const float *grad, const uint32_t *clipped, float *out) {
#pragma omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1)
    for (ptrdiff_t i = 0; i < pieces(s); i++) {
        Span p = span(s, i);
        const uint32_t *word = clipped + word_of(s, &p);
        ptrdiff_t k = p.start;
        for (; k + WORD <= p.end; k += WORD)
            let_through(*word++, grad + k, out + k, WORD);
        if (k < p.end)
            let_through(*word, grad + k, out + k, p.end - k);
    }
}

typedef struct {
    float scale[LANES], clipped[LANES];
} Sums;

/* n values, at most LANES of them; inlined for n = LANES it is straight vector code. */
static inline void learn(const Piece *p, const float *x, const float *grad, float *out, Sums *sums, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j++) {
        float ratio = x[j] / p->scale, kept = clamp(ratio, p->low, p->high);
        float inside = ratio == kept ? grad[j] : 0.0f;
        sums->scale[j] += grad[j] * (to_even(kept) - (ratio == kept ? ratio : 0.0f));
        sums->clipped[j] += grad[j] - inside;
        out[j] = inside;
    }
}

/* The same, and what scale and zero point learn from each piece: the sum of grad * (code - ratio where not clipped), and
   that of grad where a value was clipped. */
void learned_gradient(const Shape *s, const float *x, const float *grad, const float *scale, const float *zero,
                      float *restrict out, double *to_scale, double *to_clipped) {
#pragma omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1)
    for (ptrdiff_t i = 0; i < pieces(s); i++) {
        Piece p = piece(s, i, scale, zero);
        Sums sums = {{0}, {0}};
        ptrdiff_t k = p.at.start;
        for (; k + LANES <= p.at.end; k += LANES)
            learn(&p, x + k, grad + k, out + k, &sums, LANES);
        learn(&p, x + k, grad + k, out + k, &sums, p.at.end - k);
        double scales = 0.0, clipped = 0.0;
        for (int j = 0; j < LANES; j++) {
            scales += sums.scale[j];
            clipped += sums.clipped[j];
        }
        to_scale[i] = scales;
        to_clipped[i] = clipped;
    }
}

/* The bits of a float as an integer in the order of the values; NaN lies beyond both ends. */
static inline int32_t in_order(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

static inline float value_of(int32_t ordered) {
    union {
        int32_t bits;
        float value;
    } of = {in_order(ordered)};
    return of.value;
}

/* The least and the greatest value of each piece; NaN both if one of its values is. */
void extremes(const Shape *s, const float *x, float *low, float *high) {
    const int32_t *bits = (const int32_t *)x;
#pragma omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1)
    for (ptrdiff_t i = 0; i < pieces(s); i++) {
        Span p = span(s, i);
        int32_t least = INT32_MAX, most = INT32_MIN;
        for (ptrdiff_t k = p.start; k < p.end; k++) {
            int32_t value = in_order(bits[k]);
            least = value < least ? value : least;
            most = value > most ? value : most;
        }
        float bottom = value_of(least), top = value_of(most);
        low[i] = isnan(top) ? top : bottom;
        high[i] = isnan(bottom) ? bottom : top;
    }
}

/* Move averages [least value, greatest value, 1] a step of `momentum` towards those of x, unless one is not finite. The
   greatest counts as `upper` where it is above; `from_zero` takes the range from zero up. */
void follow(const Shape *s, const float *x, float *averages, float momentum, float upper, int from_zero) {
    const int32_t *bits = (const int32_t *)x;
    ptrdiff_t n = s->rows * s->inner;
    int32_t least = INT32_MAX, most = INT32_MIN;
#pragma omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1) reduction(min : least) reduction(max : most)
    for (ptrdiff_t i = 0; i < n; i++) {
        int32_t value = in_order(bits[i]);
        least = value < least ? value : least;
        most = value > most ? value : most;
    }
    float low = value_of(least), high = value_of(most);
    if (!isfinite(low) || !isfinite(high))
        return;
    float seen[3] = {low, high < upper ? high : upper, 1.0f};
    if (from_zero) {
        seen[0] = 0.0f;
        seen[1] = seen[1] > 0.0f ? seen[1] : 0.0f;
    }
    for (int i = 0; i < 3; i++)
        averages[i] = fmaf(momentum, seen[i] - averages[i], averages[i]); /* as torch.lerp: rounded once */
}

typedef struct {
    float qmin, qmax, upper, least; /* upper: infinity where there is none; least: the least scale */
    int symmetric, is_signed;
} Ends;

/* NaN if one is, as torch.maximum and torch.minimum. */
static inline float larger(float a, float b) { return a > b || a != a ? a : b; }
static inline float smaller(float a, float b) { return a < b || a != a ? a : b; }

/* Scale and zero point of `channels` ranges: qatc.grid.grid_from_range where scales are not powers of two. */
void grid(const Ends *e, ptrdiff_t channels, const float *low, const float *high, const float *floors, float *scale,
          float *zero) {
    for (ptrdiff_t c = 0; c < channels; c++) {
        float top = smaller(high[c], e->upper), bottom = low[c], amplitude = e->is_signed ? larger(-bottom, top) : top;
        if (!e->symmetric) {
            bottom = smaller(bottom, 0.0f);
            top = larger(top, 0.0f);
        }
        scale[c] = larger(e->symmetric ? amplitude / e->qmax : (top - bottom) / (e->qmax - e->qmin), e->least);
        if (floors)
            scale[c] = larger(scale[c], floors[c]);
        zero[c] = 0.0f;
        if (!e->symmetric) {
            float exact = isinf(e->upper) ? e->qmin - bottom / scale[c] : e->qmax - top / scale[c];
            zero[c] = clamp(isinf(e->upper) ? rintf(exact) : ceilf(exact), e->qmin, e->qmax);
        }
        if (!isinf(e->upper)) {
            float steps = e->qmax - zero[c], limit = e->upper / larger(steps, 1.0f);
            /* The quotient may have been rounded up, and runtimes compare in float32. */
            limit = limit * steps > e->upper ? nextafterf(limit, 0.0f) : limit;
            scale[c] = smaller(scale[c], limit);
        }
    }
}

/* Of a tensor whose range is a moving average: the average of its extremes, a little wider. */
void averaged_grid(const Ends *e, const float *averages, float margin, float *scale, float *zero) {
    float low = averages[0] / averages[2] * margin, high = averages[1] / averages[2] * margin;
    grid(e, 1, &low, &high, NULL, scale, zero);
}

/* A training step of such a tensor: follow it, then put it on the grid. */
int track(const Shape *s, const Ends *e, const float *x, float *averages, float momentum, int from_zero, float margin,
          float *out, uint32_t *clipped) {
    float scale, zero;
    follow(s, x, averages, momentum, e->upper, from_zero);
    averaged_grid(e, averages, margin, &scale, &zero);
    return fake_quantize(s, x, &scale, &zero, out, clipped);
}

/* A layer as it deploys: each channel's weights on the symmetric grid of their greatest magnitude, and the bias on that
   grid times the input's scale, in at most `int32` codes; where it would take more than `bias_codes`, the grid is wider. */
void cover(const Shape *s, float least, float bias_codes, float int32, const float *weight, const float *bias,
           const float *input_scale, float *out, float *snapped) {
    const uint32_t *bits = (const uint32_t *)weight;
#pragma omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1)
    for (ptrdiff_t c = 0; c < s->channels; c++) {
        ptrdiff_t start = c * s->inner, end = start + s->inner;
        uint32_t most = 0; /* of magnitudes the bits are in the order of the values, NaN the greatest */
        for (ptrdiff_t k = start; k < end; k++) {
            uint32_t magnitude = bits[k] & 0x7fffffffu;
            most = magnitude > most ? magnitude : most;
        }
        float scale = larger(larger(value_of((int32_t)most) / s->qmax, least), fabsf(bias[c]) / (bias_codes * *input_scale));
        for (ptrdiff_t k = start; k < end; k++)
            out[k] = to_even(clamp(weight[k] / scale, s->qmin, s->qmax)) * scale;
        float step = scale * *input_scale;
        snapped[c] = clamp(rintf(bias[c] / step), -int32, int32) * step;
    }
}
