//! `guildhall adapter ...`: compressed copies of LoRA adapters.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;
use tiers::ternary::{Options, Report, TernaryError, TernaryErrorKind, Which, folder};

use super::{Failure, say, say_json};

/// `guildhall adapter ...`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Adapter {
    /// Keep of each tensor the largest entries as signs, times one scale: a seventeenth of the size in 16 bits, with
    /// loss. Measure the expert's answers with it before it serves.
    Compress(CompressArgs),
    /// Turn a copy back into an adapter that engines load.
    Expand(ExpandArgs),
    /// Say how large a copy is, how large the adapter was, and what was lost.
    Inspect(InspectArgs),
}

/// Arguments of `adapter compress`.
#[derive(Debug, clap::Args)]
pub(super) struct CompressArgs {
    /// An adapter's folder as PEFT writes it, or its file of weights in safetensors form.
    #[arg(value_name = "FILE_OR_DIR")]
    source: PathBuf,
    /// The copy; a file there is replaced. The adapter's `adapter_config.json` goes into it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The share of each tensor's entries that is kept, above 0 and at most 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    density: f64,
    /// Which tensors to compress; the others are kept as they are.
    #[arg(long, value_enum, default_value_t = Tensors::Lora)]
    tensors: Tensors,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Tensors {
    /// The factors of LoRA updates.
    Lora,
    /// All of floating-point numbers, for a file of differences to a base model.
    All,
}

/// Arguments of `adapter expand`.
#[derive(Debug, clap::Args)]
pub(super) struct ExpandArgs {
    /// The copy.
    file: PathBuf,
    /// A new folder for the adapter, or a file that ends with `.safetensors` for its weights alone, which is replaced.
    #[arg(long, value_name = "FILE_OR_DIR")]
    out: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Arguments of `adapter inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// The copy.
    file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What `adapter compress` prints.
#[derive(Serialize)]
struct Compressed {
    #[serde(flatten)]
    report: Report,
    /// Files of the adapter's folder that the copy does not have.
    left_out: Vec<String>,
}

impl From<TernaryError> for Failure {
    fn from(error: TernaryError) -> Self {
        match error.kind {
            TernaryErrorKind::Unfit | TernaryErrorKind::Damaged => Self::Usage(error.message),
            TernaryErrorKind::Full | TernaryErrorKind::Io => Self::Other(error.into()),
        }
    }
}

/// Compresses, expands or describes.
pub(super) fn run(command: &Adapter) -> Result<(), Failure> {
    match command {
        Adapter::Compress(args) => compress(args),
        Adapter::Expand(args) => expand(args),
        Adapter::Inspect(args) => inspect(args),
    }
}

fn compress(args: &CompressArgs) -> Result<(), Failure> {
    let tensors = match args.tensors {
        Tensors::Lora => Which::Lora,
        Tensors::All => Which::All,
    };
    let options = Options { density: args.density, tensors };
    let (report, left_out) = folder::compress_file(&args.source, &args.out, options)?;
    if args.json {
        return say_json(&Compressed { report, left_out });
    }
    let mut text = table(&report);
    if !left_out.is_empty() {
        let _infallible = write!(text, "\nleft out: {}", left_out.join(", "));
    }
    say(text)
}

fn expand(args: &ExpandArgs) -> Result<(), Failure> {
    let bytes = folder::expand_file(&args.file, &args.out)?;
    if args.json {
        return say_json(&json!({"bytes": bytes}));
    }
    say(format!("{}: {bytes} bytes of weights", args.out.display()))
}

fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let report = folder::inspect_file(&args.file)?;
    if args.json { say_json(&report) } else { say(table(&report)) }
}

fn table(report: &Report) -> String {
    let all = report.tensors.len();
    let packed = report.tensors.values().filter(|tensor| tensor.packed.is_some()).count();
    let mut text = format!(
        "{} bytes, {} before: {:.1} times smaller\n{packed} of {all} tensors compressed at density {}, the others as they were\n\
         relative error {:.3} (Frobenius), mean of the tensors {:.3}",
        report.bytes_after,
        report.bytes_before,
        report.ratio,
        report.density,
        report.error,
        report.mean_error,
    );
    if let Some(worst) = &report.worst {
        let _infallible = write!(text, ", worst {:.3} of {worst}", report.worst_error);
    }
    if !report.has_config {
        text.push_str("\nwithout adapter_config.json: an engine needs it beside the weights");
    }
    text
}
