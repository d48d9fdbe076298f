"""Operators that NVIDIA's ONNX parser does not support, as the parser of TensorRT-RTX 1.7 reports (no plugins)."""

from __future__ import annotations

INTEGER_OPS = frozenset(
    (
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "DynamicQuantizeLinear",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
    )
)
UNSUPPORTED = frozenset(
    (
        *("AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
        *("CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "CumProd", "DFT", "DeformConv"),
        *(
            "Det",
            "DynamicQuantizeLinear",
            "ImageDecoder",
            "MatMulInteger",
            "MaxRoiPool",
            "MaxUnpool",
            "MelWeightMatrix",
        ),
        *("Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement"),
        *("QLinearConv", "QLinearMatMul", "RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceEmpty"),
        *("SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss"),
        *("SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "SwiGLU", "TfIdfVectorizer", "Unique"),
    )
)
"""Operators of ONNX's own domain that the parser does not support."""
FOREIGN = frozenset(
    (
        *("Attention", "DequantizeLinear", "Gelu", "GroupQueryAttention", "MatMulNBits", "MultiHeadAttention"),
        *("QuantizeLinear", "RotaryEmbedding", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"),
    )
)
"""Operators of other domains that the parser supports."""
