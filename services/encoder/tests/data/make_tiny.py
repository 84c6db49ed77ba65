"""Writes tests/data/tiny: a router bundle of a few kilobytes that obeys the graph contract.

    pip install onnx==1.23.2 onnxruntime==1.31.1 tokenizers==0.23.3 numpy
    python make_tiny.py

Embeddings are tanh(E[id] + mean of the unmasked E) so that every token state depends on the whole prompt,
as attention would make it; weights are drawn from a fixed seed, so the files are always the same.
"""

import hashlib
import json
import pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

OUT = pathlib.Path(__file__).parent / "tiny"
D, C, H = 8, 3, 64
CATEGORIES = ["code", "math", "chat"]
GOLDEN = "Sort the numbers 3, 1 and 2 in python and say hello."
WORDS = """the of and to in is you that it he was for on are as with his they at be this have from or one had by
word but not what all were we when your can said there use an each which she do how their if will up other about
out many then them these so some her would make like him into time has look two more write go see number no way
could people my than first water been call who oil its now find long down day did get come made may part python
code sort list function numbers add sum prove theorem hello say please thank""".split()


def tokenizer() -> Tokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [str(n) for n in range(10)]
    pieces += letters + ["##" + piece for piece in letters] + list(".,!?;:'\"()[]-+=*/")
    pieces += [word for word in WORDS if word not in pieces]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(pieces[:5])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    # What exported tokenizers often carry, and what the encoder must not obey.
    made.enable_truncation(16)
    made.enable_padding(length=16)
    return made


def graph(size: int) -> onnx.ModelProto:
    rng = np.random.default_rng(7)

    def weights(name, *shape, scale=1.0):
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name)

    def constant(name, value, kind=np.int64):
        return numpy_helper.from_array(np.array(value, kind), name)

    initializers = [
        weights("embeddings", size, D),
        weights("head.unigram", size, C, scale=0.7),
        weights("head.bigram", H, C, scale=0.7),
        weights("head.embedding", D, C, scale=2.0),
        weights("head.bias", C, scale=0.2),
        constant("head.temperature", [1.3], np.float32),
        constant("axis1", [1]), constant("axis2", [2]), constant("zero", [0]), constant("one", [1]),
        constant("minus_one", [-1]), constant("end", [2**62]),
        constant("left", 0x9E3779B1), constant("right", 0x85EBCA77), constant("buckets", H),
        constant("tiny", [1e-12], np.float32), constant("unit", [1.0], np.float32),
    ]
    n = helper.make_node
    nodes = [
        n("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        n("Unsqueeze", ["mask", "axis2"], ["mask3"]),
        n("ReduceSum", ["mask", "axis1"], ["length"], keepdims=1),
        n("Gather", ["embeddings", "input_ids"], ["words"]),
        n("Mul", ["words", "mask3"], ["words_masked"]),
        n("ReduceSum", ["words_masked", "axis1"], ["word_sum"], keepdims=1),
        n("Unsqueeze", ["length", "axis2"], ["length3"]),
        n("Div", ["word_sum", "length3"], ["context"]),
        n("Add", ["words", "context"], ["mixed"]),
        n("Tanh", ["mixed"], ["token_states"]),
        n("Mul", ["token_states", "mask3"], ["states_masked"]),
        n("ReduceSum", ["states_masked", "axis1"], ["state_sum"], keepdims=0),
        n("Div", ["state_sum", "length"], ["pooled"]),
        n("ReduceL2", ["pooled"], ["norm"], axes=[1], keepdims=1),
        n("Max", ["norm", "tiny"], ["norm_safe"]),
        n("Div", ["pooled", "norm_safe"], ["embedding"]),
        # lexical part: unigrams, and bigrams by their hash
        n("Gather", ["head.unigram", "input_ids"], ["unigrams"]),
        n("Mul", ["unigrams", "mask3"], ["unigrams_masked"]),
        n("ReduceSum", ["unigrams_masked", "axis1"], ["unigram_sum"], keepdims=0),
        n("Slice", ["input_ids", "zero", "minus_one", "axis1"], ["first_ids"]),
        n("Slice", ["input_ids", "one", "end", "axis1"], ["second_ids"]),
        n("Mul", ["first_ids", "left"], ["first_hash"]),
        n("Mul", ["second_ids", "right"], ["second_hash"]),
        n("Add", ["first_hash", "second_hash"], ["hash_sum"]),
        n("Mod", ["hash_sum", "buckets"], ["hashes"]),
        n("Gather", ["head.bigram", "hashes"], ["bigrams"]),
        n("Slice", ["mask3", "one", "end", "axis1"], ["pair_mask"]),
        n("Mul", ["bigrams", "pair_mask"], ["bigrams_masked"]),
        n("ReduceSum", ["bigrams_masked", "axis1"], ["bigram_sum"], keepdims=0),
        n("Add", ["length", "length"], ["length2"]),
        n("Sub", ["length2", "unit"], ["features"]),
        n("Sqrt", ["features"], ["root"]),
        n("Add", ["unigram_sum", "bigram_sum"], ["lexical_sum"]),
        n("Div", ["lexical_sum", "root"], ["lexical"]),
        n("MatMul", ["embedding", "head.embedding"], ["dense"]),
        n("Add", ["lexical", "dense"], ["scored"]),
        n("Add", ["scored", "head.bias"], ["raw_logits"]),
        n("Div", ["raw_logits", "head.temperature"], ["category_logits"]),
    ]
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "tiny",
        [info("input_ids", TensorProto.INT64, ["b", "t"]), info("attention_mask", TensorProto.INT64, ["b", "t"])],
        [
            info("embedding", TensorProto.FLOAT, ["b", D]),
            info("category_logits", TensorProto.FLOAT, ["b", C]),
            info("token_states", TensorProto.FLOAT, ["b", "t", D]),
        ],
        initializers,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    model.producer_name = "guildhall-tests"
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    OUT.mkdir(exist_ok=True)
    made = tokenizer()
    (OUT / "tokenizer.json").write_text(made.to_str())
    (OUT / "model.onnx").write_bytes(graph(made.get_vocab_size()).SerializeToString(deterministic=True))

    made.no_padding()
    made.no_truncation()
    ids = np.array([made.encode(GOLDEN).ids], np.int64)
    session = ort.InferenceSession(OUT / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    embedding, logits = (row[0] for row in session.run(["embedding", "category_logits"], feed))
    powers = np.exp(logits - logits.max())
    probabilities = powers / powers.sum()

    def entry(name):
        content = (OUT / name).read_bytes()
        return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    manifest = {
        "format": 1,
        "name": "tiny",
        "version": "1.0.0",
        "description": "A bundle for tests, with random weights",
        "model_id": "tiny-test-encoder",
        "files": {name: entry(name) for name in ("model.onnx", "tokenizer.json")},
        "encoder": {
            "dimensions": D, "max_tokens": 16, "embedding_max_tokens": 32, "pooling": "mean",
            "inputs": ["input_ids", "attention_mask"],
        },
        "categories": [{"name": name, "description": f"prompts about {name}"} for name in CATEGORIES],
        "calibration": {"temperature": 1.3},
        "golden": {
            "text": GOLDEN,
            "category": CATEGORIES[int(probabilities.argmax())],
            "probabilities": [round(float(p), 6) for p in probabilities],
            "embedding_head": [round(float(x), 6) for x in embedding],
        },
        "licence": "Apache-2.0",
        "provenance": {"recipe": "services/encoder/tests/data/make_tiny.py"},
        "quality": {"note": "random weights: none", "rows": 0},
    }
    # JSON is YAML, and needs no further package.
    (OUT / "bundle.yaml").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
