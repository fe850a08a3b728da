"""The published defaults of the systems that qatc was founded on.

Each line says where its value is from: a system's documentation or code at the version named; what a target decides
(signed codes, symmetry) is not set here, and what is a defect of the original is left out, and named.
"""

from qatc.config.layers import LayerConfig, Rule
from qatc.config.qconfig import QConfig
from qatc.schedule import Schedule

# NNabla 2814df0, utils/qnn.py, QATConfig.
_NNABLA_LAYER = LayerConfig(
    weight_bits=8,  # dtype=int8
    activation_bits=8,
    weight_quantizer="tracked",  # recorder_weight=MinMaxMinMax; its zero point 0 would clip skewed weights: max|w| here
    activation_quantizer="tracked",
    activation_range="moving_average:0.01",  # recorder_activation=MaxMva: 0.99 old + 0.01 batch
    per_channel=False,  # channel_wise=False
    ste="unmasked",  # the gradient of quantize and dequantize is 1 even where values are clipped
)
_NNABLA_RULES = (
    Rule(":first", quantize=False),  # skip_inputs_layers=[Convolution, Deconvolution]: the stem stays float
    Rule(":last", quantize=False),  # skip_outputs_layers=[Affine]: the classifier stays float
)
_NNABLA_SCHEDULE = Schedule(
    record="1 epoch",  # niter_to_recording=0; documentation: record for longer than an epoch
    freeze_ranges="1 epoch",  # ranges never move once training is quantized
    lr_scale=0.1,  # learning_rate_scale=0.1
)

FOUNDERS: dict[str, QConfig] = {
    "nnabla": QConfig(
        _NNABLA_LAYER,
        _NNABLA_RULES,
        pow2="round",  # pow2=ROUND
        schedule=_NNABLA_SCHEDULE,
    ),
    # QATTensorRTConfig.
    "nnabla-tensorrt": QConfig(
        _NNABLA_LAYER,
        _NNABLA_RULES,
        pow2="round",  # pow2=ROUND
        target="tensorrt",
        schedule=Schedule(
            record="1 epoch",
            freeze_ranges="1 epoch",
            freeze_bn="1 epoch",  # bn_folding, bn_self_folding: by the running statistics at recording time
            lr_scale=0.1,
        ),
    ),
    # MindSpore r1.0, QuantizationAwareTraining; freeze_bn=1e7 steps is never, quant_delay=(0, 0) is no delay.
    "mindspore": QConfig(
        LayerConfig(
            weight_bits=8,  # num_bits=(8, 8)
            activation_bits=8,
            weight_quantizer="tracked",  # FakeQuantWithMinMaxObserver without ema: the weights' range as it is
            activation_quantizer="tracked",
            activation_range="moving_average:0.001",  # ema; documented as history * 0.999, coded the other way round
            per_channel=False,  # per_channel=(False, False)
        ),
    ),
    # aimet-torch 2.42, QuantizationSimModel without range learning, default_config.json.
    "aimet": QConfig(
        LayerConfig(
            weight_bits=8,  # default_param_bw=8
            activation_bits=8,  # default_output_bw=8
            weight_quantizer="tracked",  # parameter encodings are computed anew in every training pass
            activation_quantizer="fixed",  # compute_encodings (qatc.calibrate) sets activations' encodings for good
            activation_range="minmax",  # quant_scheme=min_max
            per_channel=False,  # per_channel_quantization: False
        ),
    ),
    # aimet-torch, quant_scheme=training_range_learning_with_tf_init (its name until 2.42).
    "aimet-range-learning": QConfig(
        LayerConfig(
            weight_bits=8,  # default_param_bw=8
            activation_bits=8,  # default_output_bw=8
            weight_quantizer="learned_range",  # min and max are parameters, for weights too
            activation_quantizer="learned_range",
            activation_range="minmax",  # tf_init: begun with the least and greatest value seen
            per_channel=False,  # per_channel_quantization: False
        ),
    ),
    # N2D2 ccce8ba, QWeight=SAT and QAct=SAT.
    "n2d2-sat": QConfig(
        LayerConfig(
            weight_bits=8,  # QWeight.Range=255
            activation_bits=8,  # QAct.Range=255
            weight_quantizer="sat",  # QuantMode=Symmetric; Default at R=255 has integers of 9 bits
            activation_quantizer="cg_pact",  # Alpha is 1, 6 or 8 by code and documentation: here from what was recorded
        ),
        schedule=Schedule(clamp=0.5),  # a run without ApplyQuantization, then as long a one with it
    ),
    # N2D2 ccce8ba, QWeight=LSQ and QAct=LSQ.
    "n2d2-lsq": QConfig(
        LayerConfig(
            weight_bits=8,  # QWeight.Range=255
            activation_bits=8,  # QAct.Range=255
            weight_quantizer="lsq",
            weight_range="mean_magnitude",  # s0 = 2 * mean|w| / sqrt(Qp)
            activation_quantizer="lsq",
            activation_range="mean_magnitude",
            per_channel=False,  # one step size a layer
        ),
    ),
    # TI edgeai-torchmodelopt v1 (edgeai-tensorlab f272548), QuantTrainModule.
    "ti-pact2": QConfig(
        LayerConfig(
            weight_bits=8,  # bitwidth_weights=8
            activation_bits=8,  # bitwidth_activations=8
            weight_quantizer="tracked",  # ceil2(max|w|) of the folded weight, at each step
            activation_quantizer="tracked",
            activation_range="trimmed_average",  # histogram_range=True, range_shrink_activations=0.01 percent
            per_channel=False,  # per_channel_q=False
        ),
        pow2=True,  # power2_weight_range, power2_activation_range: ceil2
        batch_norm="straight-through",  # values of the quantized block, gradient of the float one
        schedule=Schedule(
            freeze_bn="50 % - 1 epoch",  # from total_epochs / 2 - 1 on
            freeze_ranges="50 % + 1 epoch",  # from total_epochs / 2 + 1 on
        ),
    ),
}
