"""The router graph: a BERT encoder and a category head in one ONNX model, standard operators only.

The contract (inputs, outputs, tensor names, padding rules) is in README.md. Two kinds of tensors are stored as int8:

* matrices that a MatMul reads: Cast and Mul stand between them and the MatMul. Both read constants only, so every
  runtime folds them when it loads the model, and the forward pass is the plain float one;
* tables that a Gather reads (word embeddings, lexical weights): the Gather comes first, so that only the rows in use
  are ever widened and the table stays int8 in memory.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
HASH_LEFT = 0x9E3779B1
HASH_RIGHT = 0x85EBCA77
EDGE = 6  # tokens at either end of a prompt that the head reads apart, special tokens included
PARTS = 4  # vectors that the head reads: mean, [CLS], first and last tokens
BIGRAM_ROWS = 131_071  # prime: a power of two would drop the high bits of the products


def quantize(matrix, axis):
    """int8 values and float32 scales, symmetric, one scale for each slice that stays when `axis` is reduced."""
    peak = np.abs(matrix).max(axis=axis, keepdims=True)
    scale = np.where(peak > 0, peak / 127.0, 1.0).astype(np.float32)
    return np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8), scale


class Builder:
    """Collects nodes and initializers; every method returns the name of the tensor it adds."""

    def __init__(self):
        self.nodes, self.initializers, self.known = [], [], set()

    def constant(self, name, value):
        if name not in self.known:
            self.known.add(name)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name="node." + output, **attributes))
        return output

    def widened(self, name, matrix, int8):
        """A weight matrix [in, out] for a MatMul."""
        if not int8:
            return self.constant(name, matrix.astype(np.float32))
        values, scale = quantize(matrix, axis=0)
        wide = self.op("Cast", [self.constant(name + ".int8", values)], name + ".wide", to=TensorProto.FLOAT)
        return self.op("Mul", [wide, self.constant(name + ".scale", scale[0])], name)


def encoder(build, weights, config, int8):
    """Adds the BERT layers; returns the name of the token states [b, t, d]."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    epsilon = config["layer_norm_eps"]

    def linear(source, key, output):
        product = build.op(
            "MatMul", [source, build.widened(key + ".weight", weights[key + ".weight"].T, int8)], output + ".product"
        )
        return build.op("Add", [product, build.constant(key + ".bias", weights[key + ".bias"])], output)

    def norm(source, key, output):
        scale = build.constant(key + ".weight", weights[key + ".weight"])
        bias = build.constant(key + ".bias", weights[key + ".bias"])
        return build.op("LayerNormalization", [source, scale, bias], output, axis=-1, epsilon=epsilon)

    table = weights["embeddings.word_embeddings.weight"]
    if int8:
        values, scale = quantize(table, axis=1)
        rows = build.op("Gather", [build.constant("embeddings.word.int8", values), "input_ids"], "embed.rows")
        rows = build.op("Cast", [rows], "embed.wide", to=TensorProto.FLOAT)
        scales = build.op("Gather", [build.constant("embeddings.word.scale", scale), "input_ids"], "embed.scale")
        words = build.op("Mul", [rows, scales], "embed.word")
    else:
        words = build.op("Gather", [build.constant("embeddings.word", table), "input_ids"], "embed.word")
    # Every prompt is one segment: its type embedding is a constant of the positions.
    positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    axis = build.constant("axis.0", np.array([0], np.int64))
    length = build.op(
        "Slice",
        [
            build.op("Shape", ["input_ids"], "embed.shape"),
            build.constant("index.1", np.array([1], np.int64)),
            build.constant("index.2", np.array([2], np.int64)),
            axis,
        ],
        "embed.length",
    )
    start = build.constant("index.0", np.array([0], np.int64))
    positions = build.op("Slice", [build.constant("embeddings.position", positions), start, length, axis], "embed.position")
    states = norm(build.op("Add", [words, positions], "embed.sum"), "embeddings.LayerNorm", "embed.out")

    # 0 where a token is read, a large negative number where it is padding; the smallest float would overflow in a sum.
    mask = build.op("Unsqueeze", ["attention_mask", build.constant("axes.12", np.array([1, 2], np.int64))], "mask.wide")
    mask = build.op("Cast", [mask], "mask.float", to=TensorProto.FLOAT)
    mask = build.op("Sub", [build.constant("one", np.array(1.0, np.float32)), mask], "mask.inverse")
    mask = build.op("Mul", [mask, build.constant("mask.penalty", np.array(-10000.0, np.float32))], "mask.bias")

    split = build.constant("shape.split", np.array([0, 0, heads, hidden // heads], np.int64))
    merge = build.constant("shape.merge", np.array([0, 0, hidden], np.int64))
    root = build.constant("attention.scale", np.array(math.sqrt(hidden // heads), np.float32))
    for layer in range(config["num_hidden_layers"]):
        key, out = f"encoder.layer.{layer}.", f"layer{layer}."

        def head(kind, perm):
            flat = linear(states, key + "attention.self." + kind, out + kind)
            return build.op("Transpose", [build.op("Reshape", [flat, split], out + kind + ".split")], out + kind + ".heads", perm=perm)

        query, keys, value = head("query", [0, 2, 1, 3]), head("key", [0, 2, 3, 1]), head("value", [0, 2, 1, 3])
        scores = build.op("Div", [build.op("MatMul", [query, keys], out + "dot"), root], out + "scores")
        shares = build.op("Softmax", [build.op("Add", [scores, mask], out + "masked")], out + "shares", axis=-1)
        context = build.op("MatMul", [shares, value], out + "context.heads")
        context = build.op("Transpose", [context], out + "context.split", perm=[0, 2, 1, 3])
        context = build.op("Reshape", [context, merge], out + "context")
        attended = linear(context, key + "attention.output.dense", out + "attended")
        states = norm(
            build.op("Add", [attended, states], out + "attended.sum"), key + "attention.output.LayerNorm", out + "attended.norm"
        )
        inner = linear(states, key + "intermediate.dense", out + "inner")
        erf = build.op("Erf", [build.op("Div", [inner, build.constant("sqrt2", np.array(math.sqrt(2.0), np.float32))], out + "gelu.x")], out + "gelu.erf")
        gate = build.op("Add", [erf, "one"], out + "gelu.gate")
        inner = build.op("Mul", [build.op("Mul", [inner, gate], out + "gelu.double"), build.constant("half", np.array(0.5, np.float32))], out + "gelu")
        outer = linear(inner, key + "output.dense", out + "outer")
        last = layer == config["num_hidden_layers"] - 1
        states = norm(build.op("Add", [outer, states], out + "sum"), key + "output.LayerNorm", "token_states" if last else out + "out")
    return states


def pooling(build, states, hidden):
    """`embedding`, the mean of the unmasked token states, and `pooled`, what the head reads: that mean, the state of
    [CLS], and the means of the first and the last EDGE tokens. Each is L2-normalised; in `pooled` they stand one after
    the other, divided by the root of their number. A row without tokens gives zeros, not a division by zero."""
    one = build.constant("one", np.array(1.0, np.float32))
    axis = build.constant("axis.1", np.array([1], np.int64))
    edge = build.constant("pool.edge", np.array(float(EDGE), np.float32))
    mask = build.op("Cast", ["attention_mask"], "pool.mask", to=TensorProto.FLOAT)
    count = build.op("ReduceSum", [mask, axis], "pool.tokens", keepdims=1)
    # 1 for the first token, 2 for the second; padding comes after the last and is masked away.
    place = build.op("CumSum", [mask, axis], "pool.place")

    def share(inside, name):
        inside = build.op("Mul", [build.op("Cast", [inside], name + ".in", to=TensorProto.FLOAT), mask], name + ".mask")
        size = build.op("Max", [build.op("ReduceSum", [inside, axis], name + ".size", keepdims=1), one], name + ".count")
        return build.op("Unsqueeze", [build.op("Div", [inside, size], name + ".share"), axis], name + ".row")

    start = build.op("Sub", [count, edge], "pool.start")
    rows = [
        share(build.op("LessOrEqual", [place, count], "mean.places"), "mean"),
        share(build.op("LessOrEqual", [place, one], "cls.places"), "cls"),
        share(build.op("LessOrEqual", [place, edge], "first.places"), "first"),
        share(build.op("Greater", [place, start], "last.places"), "last"),
    ]
    parts = build.op("MatMul", [build.op("Concat", rows, "pool.shares", axis=1), states], "pool.parts")
    norm = build.op("ReduceL2", [parts], "pool.norm", axes=[2], keepdims=1)
    norm = build.op("Max", [norm, build.constant("tiny", np.array(1e-12, np.float32))], "pool.floor")
    parts = build.op("Div", [parts, norm], "pool.units")
    mean = build.op("Gather", [parts, build.constant("index.0", np.array([0], np.int64))], "pool.mean", axis=1)
    embedding = build.op("Squeeze", [mean, axis], "embedding")
    flat = build.constant("pool.flat", np.array([0, len(rows) * hidden], np.int64))
    root = build.constant("pool.root", np.array(math.sqrt(len(rows)), np.float32))
    return embedding, build.op("Div", [build.op("Reshape", [parts, flat], "pool.joined"), root], "pooled")


def head(build, pooled, vocabulary, dimensions, categories):
    """The category head without weights: `guildhall train router` replaces the initializers named head.*"""
    # No two categories tie, so that even the empty head has one answer on every machine.
    bias = np.linspace(0.0, -1.0, categories, dtype=np.float32)
    axis = build.constant("axis.1", np.array([1], np.int64))

    def lexical(name, rows, ids, mask):
        """Sum of the int8 rows of one table over the unmasked ids, widened by one scale per category."""
        table = build.constant("head." + name, np.zeros((rows, categories), np.int8))
        scale = build.constant(f"head.{name}.scale", np.ones(categories, np.float32))
        rows = build.op("Cast", [build.op("Gather", [table, ids], name + ".rows")], name + ".wide", to=TensorProto.FLOAT)
        weights = build.op("Unsqueeze", [mask, build.constant("axis.2", np.array([2], np.int64))], name + ".weights")
        rows = build.op("Mul", [rows, weights], name + ".masked")
        return build.op("Mul", [build.op("ReduceSum", [rows, axis], name + ".sum", keepdims=0), scale], name + ".score")

    first = build.constant("index.0", np.array([0], np.int64))
    second = build.constant("index.1", np.array([1], np.int64))
    last = build.constant("index.last", np.array([-1], np.int64))
    end = build.constant("index.end", np.array([np.iinfo(np.int64).max], np.int64))

    def left(source, output):
        return build.op("Slice", [source, first, last, axis], output)

    def right(source, output):
        return build.op("Slice", [source, second, end, axis], output)

    product_left = build.op(
        "Mul", [left("input_ids", "pair.left"), build.constant("hash.left", np.array(HASH_LEFT, np.int64))], "pair.left.product"
    )
    product_right = build.op(
        "Mul", [right("input_ids", "pair.right"), build.constant("hash.right", np.array(HASH_RIGHT, np.int64))], "pair.right.product"
    )
    mask = build.op("Cast", ["attention_mask"], "head.mask", to=TensorProto.FLOAT)
    pair_mask = build.op("Mul", [left(mask, "pair.mask.left"), right(mask, "pair.mask.right")], "pair.mask")

    unigrams = lexical("unigram", vocabulary, "input_ids", mask)
    # The modulus is the table's own height, so that a trainer may choose another one.
    table = build.constant("head.bigram", np.zeros((BIGRAM_ROWS, categories), np.int8))
    height = build.op("Gather", [build.op("Shape", [table], "pair.shape"), build.constant("index.rows", np.array(0, np.int64))], "pair.height")
    pairs = build.op("Mod", [build.op("Add", [product_left, product_right], "pair.key"), height], "pair.ids")
    bigrams = lexical("bigram", BIGRAM_ROWS, pairs, pair_mask)

    count = build.op(
        "Add",
        [
            build.op("ReduceSum", [mask, axis], "head.tokens", keepdims=1),
            build.op("ReduceSum", [pair_mask, axis], "head.pairs", keepdims=1),
        ],
        "head.features",
    )
    count = build.op("Max", [count, build.constant("one", np.array(1.0, np.float32))], "head.features.floor")
    score = build.op("Div", [build.op("Add", [unigrams, bigrams], "head.lexical.sum"), build.op("Sqrt", [count], "head.root")], "head.lexical")
    dense = build.op("MatMul", [pooled, build.constant("head.embedding", np.zeros((dimensions, categories), np.float32))], "head.dense")
    score = build.op("Add", [score, dense], "head.sum")
    score = build.op("Add", [score, build.constant("head.bias", bias)], "head.score")
    return build.op("Div", [score, build.constant("head.temperature", np.ones(1, np.float32))], "category_logits")


def router(weights, config, categories, int8=True):
    """The whole model. `int8=False` gives the float32 reference that check.py compares against."""
    build = Builder()
    states = encoder(build, weights, config, int8)
    # Known shapes let a runtime fuse the residual sums with the normalisations. The head's are left open: a trainer
    # may change the number of categories without touching anything but the initializers.
    batch = ["batch", "tokens"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, batch) for name in ("input_ids", "attention_mask")]
    hidden = config["hidden_size"]
    token_states = helper.make_tensor_value_info("token_states", TensorProto.FLOAT, [*batch, hidden])
    body = helper.make_graph(build.nodes, "encoder", inputs, [token_states], build.initializers)
    body = onnx.shape_inference.infer_shapes(helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)]))
    shapes = [info for info in body.graph.value_info if info.name.startswith(("layer", "embed.", "encoder."))]

    _, pooled = pooling(build, states, hidden)
    head(build, pooled, config["vocab_size"], PARTS * hidden, categories)
    outputs = [
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", hidden]),
        helper.make_tensor_value_info("category_logits", TensorProto.FLOAT, ["batch", "categories"]),
        helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["batch", PARTS * hidden]),
        token_states,
    ]
    graph = helper.make_graph(build.nodes, "router", inputs, outputs, build.initializers, value_info=shapes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="guildhall")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model
