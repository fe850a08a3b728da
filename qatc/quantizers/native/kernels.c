/* Fake quantization on a CPU in one pass over the values, where whole-tensor operators take five or six.

   A tensor is rows of `inner` values; row r belongs to channel r % channels, which has its own scale and zero point.
   Every operation is the float32 one that the operators of PyTorch do, in their order, so the bits are theirs. */

#include <stddef.h>
#include <stdint.h>

typedef struct {
    ptrdiff_t rows, channels, inner;
    float qmin, qmax, above; /* the lowest code counts as not clipped from `above` steps over it */
    int threads;
} Shape;

enum { PIECE = 1 << 15, LANES = 16 }; /* values that a thread takes at a time; partial sums that fit a register */

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
    float scale, low, high;
} Piece;

static inline ptrdiff_t pieces(const Shape *s) { return s->rows * ((s->inner + PIECE - 1) / PIECE); }

static inline Piece piece(const Shape *s, ptrdiff_t i, const float *scale, const float *zero) {
    ptrdiff_t per_row = (s->inner + PIECE - 1) / PIECE, row = i / per_row, from = (i % per_row) * PIECE;
    ptrdiff_t to = from + PIECE < s->inner ? from + PIECE : s->inner, channel = row % s->channels;
    return (Piece){row, row * s->inner + from, row * s->inner + to, scale[channel],
                   (s->qmin - zero[channel]) + s->above, s->qmax - zero[channel]};
}

/* Write x on its grid; `clipped`, if there is one, gets 1 where a value was not between the ends, else 0. */
void fake_quantize(const Shape *s, const float *x, const float *scale, const float *zero, float *out,
                   uint8_t *clipped) {
#pragma omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1)
    for (ptrdiff_t i = 0; i < pieces(s); i++) {
        Piece p = piece(s, i, scale, zero);
        if (clipped)
            for (ptrdiff_t k = p.start; k < p.end; k++) {
                float ratio = x[k] / p.scale, kept = clamp(ratio, p.low, p.high);
                clipped[k] = ratio != kept;
                out[k] = to_even(kept) * p.scale;
            }
        else
            for (ptrdiff_t k = p.start; k < p.end; k++)
                out[k] = to_even(clamp(x[k] / p.scale, p.low, p.high)) * p.scale;
    }
}

/* Write the gradient where nothing was clipped, zero elsewhere. */
void pass_unclipped(const Shape *s, const float *grad, const uint8_t *clipped, float *out) {
    ptrdiff_t n = s->rows * s->inner;
#pragma omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1)
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = clipped[i] ? 0.0f : grad[i];
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
        ptrdiff_t k = p.start;
        for (; k + LANES <= p.end; k += LANES)
            learn(&p, x + k, grad + k, out + k, &sums, LANES);
        learn(&p, x + k, grad + k, out + k, &sums, p.end - k);
        double scales = 0.0, clipped = 0.0;
        for (int j = 0; j < LANES; j++) {
            scales += sums.scale[j];
            clipped += sums.clipped[j];
        }
        to_scale[i] = scales;
        to_clipped[i] = clipped;
    }
}

/* The greatest magnitude of each piece. Of floats without their sign the bits are in the order of the values, NaN the
   greatest. */
void magnitudes(const Shape *s, const float *x, float *found) {
#pragma omp parallel for schedule(static) num_threads(s->threads) if (s->threads > 1)
    for (ptrdiff_t i = 0; i < pieces(s); i++) {
        ptrdiff_t per_row = (s->inner + PIECE - 1) / PIECE, from = (i % per_row) * PIECE;
        ptrdiff_t to = from + PIECE < s->inner ? from + PIECE : s->inner;
        const uint32_t *bits = (const uint32_t *)(x + (i / per_row) * s->inner);
        uint32_t most = 0;
        for (ptrdiff_t k = from; k < to; k++) {
            uint32_t magnitude = bits[k] & 0x7fffffffu;
            most = magnitude > most ? magnitude : most;
        }
        ((uint32_t *)found)[i] = most;
    }
}
