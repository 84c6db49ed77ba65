//! The smallest model that llama.cpp loads: one layer, and a vocabulary of bytes.

const VOCABULARY: u64 = 260;
const WIDTH: u64 = 32;
const INNER: u64 = 64;

enum Meta {
    Text(&'static str),
    Number(u32),
    Real(f32),
    Flag(bool),
    Texts(Vec<Vec<u8>>),
    Reals(Vec<f32>),
    Integers(Vec<i32>),
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn list(out: &mut Vec<u8>, kind: u32, length: usize) {
    out.extend(9_u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((length as u64).to_le_bytes());
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(value) => {
                out.extend(8_u32.to_le_bytes());
                text(out, value.as_bytes());
            }
            Self::Number(value) => {
                out.extend(4_u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Self::Real(value) => {
                out.extend(6_u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Self::Flag(value) => {
                out.extend(7_u32.to_le_bytes());
                out.push(u8::from(*value));
            }
            Self::Texts(values) => {
                list(out, 8, values.len());
                for value in values {
                    text(out, value);
                }
            }
            Self::Reals(values) => {
                list(out, 6, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::Integers(values) => {
                list(out, 5, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }
}

fn metadata() -> Vec<(&'static str, Meta)> {
    let bytes = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>").into_bytes());
    let mut tokens: Vec<Vec<u8>> = [b"<unk>".to_vec(), b"<s>".to_vec(), b"</s>".to_vec()].into();
    tokens.extend(bytes);
    tokens.push("\u{2581}".into());
    // Unknown, two controls, bytes, and one that is normal.
    let kinds = [2, 3, 3].into_iter().chain([6; 256]).chain([1]).collect();
    vec![
        ("general.architecture", Meta::Text("llama")),
        ("llama.context_length", Meta::Number(64)),
        ("llama.embedding_length", Meta::Number(WIDTH as u32)),
        ("llama.block_count", Meta::Number(1)),
        ("llama.feed_forward_length", Meta::Number(INNER as u32)),
        ("llama.attention.head_count", Meta::Number(2)),
        ("llama.attention.head_count_kv", Meta::Number(2)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::Real(1e-5)),
        ("llama.rope.dimension_count", Meta::Number(WIDTH as u32 / 2)),
        ("llama.vocab_size", Meta::Number(VOCABULARY as u32)),
        ("tokenizer.ggml.model", Meta::Text("llama")),
        ("tokenizer.ggml.scores", Meta::Reals(vec![0.0; tokens.len()])),
        ("tokenizer.ggml.tokens", Meta::Texts(tokens)),
        ("tokenizer.ggml.token_type", Meta::Integers(kinds)),
        ("tokenizer.ggml.unknown_token_id", Meta::Number(0)),
        ("tokenizer.ggml.bos_token_id", Meta::Number(1)),
        ("tokenizer.ggml.eos_token_id", Meta::Number(2)),
        ("tokenizer.ggml.add_space_prefix", Meta::Flag(false)),
    ]
}

/// The file.
pub(super) fn model() -> Vec<u8> {
    let tensors: [(&str, &[u64]); 12] = [
        ("token_embd.weight", &[WIDTH, VOCABULARY]),
        ("output_norm.weight", &[WIDTH]),
        ("output.weight", &[WIDTH, VOCABULARY]),
        ("blk.0.attn_norm.weight", &[WIDTH]),
        ("blk.0.ffn_norm.weight", &[WIDTH]),
        ("blk.0.attn_q.weight", &[WIDTH, WIDTH]),
        ("blk.0.attn_k.weight", &[WIDTH, WIDTH]),
        ("blk.0.attn_v.weight", &[WIDTH, WIDTH]),
        ("blk.0.attn_output.weight", &[WIDTH, WIDTH]),
        ("blk.0.ffn_gate.weight", &[WIDTH, INNER]),
        ("blk.0.ffn_up.weight", &[WIDTH, INNER]),
        ("blk.0.ffn_down.weight", &[INNER, WIDTH]),
    ];
    let metadata = metadata();
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in &metadata {
        text(&mut out, key.as_bytes());
        value.write(&mut out);
    }
    let mut numbers = 0_u64;
    for (name, sides) in tensors {
        text(&mut out, name.as_bytes());
        out.extend((sides.len() as u32).to_le_bytes());
        out.extend(sides.iter().flat_map(|side| side.to_le_bytes()));
        out.extend(0_u32.to_le_bytes());
        out.extend((4 * numbers).to_le_bytes());
        numbers += sides.iter().product::<u64>();
    }
    // The numbers begin at a multiple of 32 bytes; as every tensor has a multiple of 8 of them, so does each.
    out.resize(out.len().next_multiple_of(32), 0);
    for at in 0..numbers {
        let small = (at % 17) as f32 / 100.0 - 0.08;
        out.extend(small.to_le_bytes());
    }
    out
}
