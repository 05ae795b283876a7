"""What the operators of each format do, as far as their time is concerned.

conv, transposed, linear, matmul, attention, recurrent: products with weights or of activations. clamp, norm: fused into
the product that they follow. view: nothing happens. quantize: to and from integers, which runtimes fold away. The rest
are classes of `edgekd.kernels`.
"""

from collections.abc import Mapping
from typing import Final

CHANNELS_LAST: Final = frozenset({"tflite"})

_TFLITE: Final = {
    "conv": "CONV_2D DEPTHWISE_CONV_2D CONV_3D",
    "transposed": "TRANSPOSE_CONV CONV_3D_TRANSPOSE",
    "linear": "FULLY_CONNECTED",
    "matmul": "BATCH_MATMUL",
    "recurrent": "LSTM UNIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_LSTM RNN UNIDIRECTIONAL_SEQUENCE_RNN SVDF",
    "clamp": "RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1",
    "view": "RESHAPE SQUEEZE EXPAND_DIMS SHAPE",
    "pool": "AVERAGE_POOL_2D MAX_POOL_2D L2_POOL_2D MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD REDUCE_ANY REDUCE_ALL "
    "ARG_MAX ARG_MIN CUMSUM",
    "elementwise": "ADD SUB MUL DIV MAXIMUM MINIMUM HARD_SWISH PRELU LEAKY_RELU NEG ABS SQUARE SQUARED_DIFFERENCE CAST "
    "QUANTIZE DEQUANTIZE FLOOR CEIL ROUND SIGN FLOOR_DIV FLOOR_MOD EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS "
    "LESS_EQUAL LOGICAL_AND LOGICAL_OR LOGICAL_NOT SELECT SELECT_V2 ADD_N WHERE",
    "activation": "LOGISTIC TANH SOFTMAX LOG_SOFTMAX EXP LOG SQRT RSQRT POW SIN COS GELU ELU L2_NORMALIZATION "
    "LOCAL_RESPONSE_NORMALIZATION",
    "move": "CONCATENATION PAD PADV2 MIRROR_PAD TRANSPOSE SLICE STRIDED_SLICE SPLIT SPLIT_V UNPACK PACK TILE "
    "BROADCAST_TO RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SPACE_TO_DEPTH DEPTH_TO_SPACE SPACE_TO_BATCH_ND "
    "BATCH_TO_SPACE_ND GATHER GATHER_ND SCATTER_ND REVERSE_V2 TOPK_V2 FILL RANGE ONE_HOT DYNAMIC_UPDATE_SLICE",
    "embedding": "EMBEDDING_LOOKUP EMBEDDING_LOOKUP_SPARSE",
}
_ONNX: Final = {
    "conv": "Conv QLinearConv ConvInteger FusedConv com.microsoft:FusedConv com.microsoft:QLinearConv",
    "transposed": "ConvTranspose",
    "matmul": "MatMul Gemm QLinearMatMul MatMulInteger com.microsoft:FusedMatMul com.microsoft:QGemm Einsum",
    "attention": "Attention com.microsoft:MultiHeadAttention com.microsoft:Attention",
    "recurrent": "LSTM GRU RNN",
    "clamp": "Relu Clip",
    "norm": "BatchNormalization",
    "view": "Reshape Squeeze Unsqueeze Flatten Identity Dropout Shape",
    "quantize": "QuantizeLinear DequantizeLinear",
    "pool": "AveragePool MaxPool LpPool GlobalAveragePool GlobalMaxPool ReduceMean ReduceSum ReduceMax ReduceMin "
    "ReduceProd ReduceL2 ReduceL1 ArgMax ArgMin CumSum com.microsoft:QLinearAveragePool "
    "com.microsoft:QLinearGlobalAveragePool",
    "elementwise": "Add Sub Mul Div Max Min HardSwish HardSigmoid PRelu LeakyRelu ThresholdedRelu Neg Abs Cast Floor "
    "Ceil Round Sign Equal Greater GreaterOrEqual Less LessOrEqual And Or Not Where Reciprocal Mod Sum Mean "
    "DynamicQuantizeLinear com.microsoft:QLinearAdd com.microsoft:QLinearMul InstanceNormalization "
    "LayerNormalization GroupNormalization RMSNormalization com.microsoft:SkipLayerNormalization",
    "activation": "Sigmoid Tanh Softmax LogSoftmax Exp Log Sqrt Pow Sin Cos Gelu com.microsoft:Gelu Elu Selu Celu Erf "
    "Softplus Softsign Mish Swish LRN com.microsoft:QLinearSigmoid com.microsoft:QuickGelu",
    "move": "Concat Pad Transpose Slice Split Tile Expand Resize Upsample DepthToSpace SpaceToDepth Gather "
    "GatherElements GatherND ScatterElements ScatterND TopK ConstantOfShape Range OneHot EyeLike Trilu "
    "com.microsoft:QLinearConcat",
}
_OPENVINO: Final = {
    "conv": "Convolution GroupConvolution",
    "transposed": "ConvolutionBackpropData GroupConvolutionBackpropData",
    "matmul": "MatMul",
    "attention": "ScaledDotProductAttention",
    "recurrent": "LSTMCell GRUCell RNNCell LSTMSequence GRUSequence RNNSequence",
    "clamp": "ReLU Clamp",
    "norm": "BatchNormInference",
    "view": "Reshape Squeeze Unsqueeze ShapeOf ReadValue Assign",
    "quantize": "FakeQuantize FakeConvert",
    "pool": "AvgPool MaxPool ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd AdaptiveAvgPool AdaptiveMaxPool "
    "CumSum ReduceL1 ReduceL2",
    "elementwise": "Add Subtract Multiply Divide Maximum Minimum HSwish HardSigmoid HSigmoid PRelu Negative Abs "
    "Convert ConvertLike Floor Ceiling Round Sign Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd "
    "LogicalOr LogicalNot Select SquaredDifference MVN FloorMod Mod NormalizeL2",
    "activation": "Sigmoid Tanh SoftMax LogSoftmax Exp Log Sqrt Power Sin Cos Gelu Elu Selu Erf SoftPlus Mish Swish "
    "LRN",
    "move": "Concat Pad Transpose Slice StridedSlice Split VariadicSplit Tile Broadcast Interpolate DepthToSpace "
    "SpaceToDepth Gather GatherND GatherElements ScatterUpdate ScatterNDUpdate ScatterElementsUpdate TopK Range "
    "OneHot SpaceToBatch BatchToSpace ShuffleChannels Reverse",
}
_COREML: Final = {
    "conv": "conv",
    "transposed": "conv_transpose",
    "linear": "linear",
    "matmul": "matmul einsum",
    "recurrent": "lstm gru rnn",
    "clamp": "relu relu6 clip clamped_relu",
    "norm": "batch_norm",
    "view": "reshape squeeze expand_dims identity flatten2d shape reshape_like",
    "quantize": "quantize dequantize",
    "pool": "avg_pool max_pool l2_pool reduce_mean reduce_sum reduce_max reduce_min reduce_prod reduce_l2_norm "
    "reduce_l1_norm reduce_argmax reduce_argmin reduce_sum_square cumsum reduce_log_sum_exp",
    "elementwise": "add sub mul real_div maximum minimum prelu leaky_relu abs cast floor ceil round sign square equal "
    "not_equal greater greater_equal less less_equal logical_and logical_or logical_not select layer_norm "
    "instance_norm l2_norm inverse mod floor_div sigmoid_hard hard_swish threshold thresholded_relu scaled_tanh "
    "linear_activation",
    "activation": "sigmoid tanh softmax exp log sqrt rsqrt pow sin cos gelu elu silu erf softplus softsign "
    "local_response_norm",
    "attention": "scaled_dot_product_attention",
    "move": "concat pad transpose slice_by_index slice_by_size split stack tile upsample_bilinear "
    "upsample_nearest_neighbor resize_bilinear pixel_shuffle pixel_unshuffle space_to_depth depth_to_space gather "
    "gather_nd gather_along_axis scatter scatter_nd topk fill range_1d one_hot band_part reverse slice_update resize "
    "resize_nearest_neighbor space_to_batch batch_to_space crop",
}
_TABLES: Final = {"tflite": _TFLITE, "onnx": _ONNX, "openvino": _OPENVINO, "coreml": _COREML}


def roles(format_: str) -> Mapping[str, str]:
    """Operator kind -> its role."""
    return {kind: role for role, kinds in _TABLES.get(format_, {}).items() for kind in kinds.split()}
