//! ONNX Runtime sessions as models.

use ort::ep::{self, ExecutionProvider};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session};
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use crate::bundle::{GRAPH_INPUTS, Manifest};
use crate::config::EncoderConfig;
use crate::model::{Batch, Heads, Matrix, Model, Outputs};
use crate::runtime::Runtime;
use crate::state::mean_normed;

const EMBEDDING: &str = "embedding";
const LOGITS: &str = "category_logits";
const STATES: &str = "token_states";
const POOLED: &str = "pooled";

/// Execution providers as sessions are built with them; `auto` has been decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Cpu,
    Cuda,
    Tensorrt,
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
        }
    }

    /// Whether the loaded library was built with it. It may still fail to start.
    pub(crate) fn in_library(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Cuda => ep::CUDA::is_available().unwrap_or(false),
            Self::Tensorrt => ep::TensorRT::is_available().unwrap_or(false),
        }
    }
}

/// One session with the two ways to run it.
pub(crate) struct OrtModel {
    session: Session,
    everything: RunOptions<HasSelectedOutputs>,
    embedding: RunOptions<HasSelectedOutputs>,
    /// With token states and the head's input, as far as the graph has them.
    details: RunOptions<HasSelectedOutputs>,
    has_states: bool,
    /// Special tokens before and after a prompt's own.
    margins: (usize, usize),
    dimensions: usize,
    categories: usize,
}

impl OrtModel {
    /// Builds a session over `graph` and checks its inputs and outputs against the manifest.
    ///
    /// # Errors
    /// What ONNX Runtime said, or how the graph departs from the manifest.
    pub(crate) fn build(
        runtime: &Runtime,
        graph: &[u8],
        manifest: &Manifest,
        engine: Engine,
        config: &EncoderConfig,
        margins: (usize, usize),
    ) -> Result<Self, String> {
        let session = session(runtime, graph, manifest, engine, config).map_err(|error| error.to_string())?;
        check_graph(&session, manifest)?;
        let options = |outputs: OutputSelector| {
            RunOptions::new().map(|o| o.with_outputs(outputs)).map_err(|error| error.to_string())
        };
        let all = || OutputSelector::no_default().with(EMBEDDING).with(LOGITS);
        let has = |name: &str| session.outputs().iter().any(|output| output.name() == name);
        let details = [STATES, POOLED].into_iter().filter(|name| has(name));
        Ok(Self {
            details: options(details.fold(all(), OutputSelector::with))?,
            has_states: has(STATES),
            session,
            margins,
            everything: options(all())?,
            embedding: options(OutputSelector::no_default().with(EMBEDDING))?,
            dimensions: manifest.encoder.dimensions,
            categories: manifest.categories.len(),
        })
    }
}

impl Model for OrtModel {
    fn forward(&mut self, batch: &Batch, heads: Heads) -> Result<Outputs, String> {
        let failed = |error: ort::Error| error.to_string();
        let shape = [batch.rows, batch.width];
        let ids = TensorRef::from_array_view((shape, batch.ids.as_slice())).map_err(failed)?;
        let mask = TensorRef::from_array_view((shape, batch.mask.as_slice())).map_err(failed)?;
        let options = match heads {
            Heads::States => &self.details,
            Heads::All => &self.everything,
            Heads::Embedding => &self.embedding,
        };
        let inputs = ort::inputs!["input_ids" => ids, "attention_mask" => mask];
        let outputs = self.session.run_with_options(inputs, options).map_err(failed)?;
        let matrix = |name: &str, width: Option<usize>| {
            let value = outputs.get(name).ok_or_else(|| format!("the graph gave no {name}"))?;
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(failed)?;
            let found: Vec<_> = shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
            match *found {
                [rows, columns] if rows == batch.rows && width.is_none_or(|width| width == columns) => {
                    Ok(Matrix { values: values.to_vec(), width: columns })
                }
                _ => {
                    let width = width.map_or("any".to_owned(), |width| width.to_string());
                    Err(format!("{name} came as {shape:?}, expected [{}, {width}]", batch.rows))
                }
            }
        };
        Ok(Outputs {
            embedding: matrix(EMBEDDING, Some(self.dimensions))?,
            logits: match heads {
                Heads::All | Heads::States => matrix(LOGITS, Some(self.categories))?,
                Heads::Embedding => Matrix::default(),
            },
            states: match outputs.get(STATES).filter(|_| heads == Heads::States) {
                Some(value) => {
                    let (shape, values) = value.try_extract_tensor::<f32>().map_err(failed)?;
                    states(batch, values, self.margins, self.dimensions)
                        .ok_or_else(|| format!("{STATES} came as {shape:?}"))?
                }
                None => Matrix::default(),
            },
            pooled: match heads {
                Heads::States if outputs.contains_key(POOLED) => matrix(POOLED, None)?,
                _ => Matrix::default(),
            },
        })
    }

    fn has_states(&self) -> bool {
        self.has_states
    }
}

/// The mean normed state of each row's own tokens; `None` when the values are not `[rows, width, dimensions]`.
fn states(
    batch: &Batch,
    values: &[f32],
    (before, after): (usize, usize),
    dimensions: usize,
) -> Option<Matrix> {
    if values.len() != batch.rows * batch.width * dimensions {
        return None;
    }
    let mut means = Vec::with_capacity(batch.rows * dimensions);
    let rows = values.chunks_exact((batch.width * dimensions).max(1));
    for (row, mask) in rows.zip(batch.mask.chunks_exact(batch.width.max(1))) {
        let tokens = mask.iter().filter(|bit| **bit == 1).count();
        let own = row.get(before * dimensions..tokens.saturating_sub(after) * dimensions);
        means.extend(mean_normed(own.unwrap_or_default(), dimensions));
    }
    Some(Matrix { values: means, width: dimensions })
}

fn session(
    runtime: &Runtime,
    graph: &[u8],
    manifest: &Manifest,
    engine: Engine,
    config: &EncoderConfig,
) -> ort::Result<Session> {
    let longest = manifest.encoder.embedding_max_tokens;
    let providers = match engine {
        // The arena keeps what the largest batch needed, which the limits on batches bound; without it
        // every pass maps and unmaps its activations.
        Engine::Cpu => vec![ep::CPU::default().with_arena_allocator(true).build()],
        Engine::Cuda => vec![cuda(config)],
        // The range of shapes is fixed beforehand, or an engine is built anew for every larger batch.
        Engine::Tensorrt => {
            let shapes = |rows: usize, width: usize| {
                GRAPH_INPUTS.map(|input| format!("{input}:{rows}x{width}")).join(",")
            };
            let rows = config.max_batch.max(1);
            let typical = (rows.div_ceil(4), manifest.encoder.max_tokens);
            vec![
                ep::TensorRT::default()
                    .with_device_id(config.device_id)
                    .with_profile_min_shapes(shapes(1, 1))
                    .with_profile_opt_shapes(shapes(typical.0, typical.1))
                    .with_profile_max_shapes(shapes(rows, longest))
                    .build()
                    .error_on_failure(),
                // For the operators that TensorRT lacks.
                cuda(config),
            ]
        }
    };
    Session::builder(runtime.environment())?
        .with_execution_providers(providers)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(config.intra_op_threads)?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        // A spinning pool burns the cores that serve sockets.
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        // Patterns are learnt per shape, and every batch has another one.
        .with_memory_pattern(false)?
        .commit_from_memory(graph)
}

/// TF32 off: the answers shall be those of the CPU.
fn cuda(config: &EncoderConfig) -> ep::ExecutionProviderDispatch {
    ep::CUDA::default().with_device_id(config.device_id).with_tf32(false).build().error_on_failure()
}

/// Names, types and widths, as far as the graph states them; what it leaves open is checked when it runs.
fn check_graph(session: &Session, manifest: &Manifest) -> Result<(), String> {
    let find =
        |outlets: &[Outlet], name: &str| outlets.iter().find(|o| o.name() == name).map(|o| o.dtype().clone());
    for name in GRAPH_INPUTS {
        match find(session.inputs(), name) {
            Some(ValueType::Tensor { ty: TensorElementType::Int64, shape, .. }) if shape.len() == 2 => {}
            Some(other) => return Err(format!("input {name} is {other:?}, expected int64 [b, t]")),
            None => return Err(format!("the graph has no input {name}")),
        }
    }
    if let Some(extra) = session.inputs().iter().find(|i| !GRAPH_INPUTS.contains(&i.name())) {
        return Err(format!("the graph asks for an input {} that nobody gives", extra.name()));
    }
    let outputs = [
        (EMBEDDING, manifest.encoder.dimensions, "encoder.dimensions"),
        (LOGITS, manifest.categories.len(), "the number of categories"),
    ];
    for (name, width, origin) in outputs {
        match find(session.outputs(), name) {
            Some(ValueType::Tensor { ty: TensorElementType::Float32, shape, .. }) if shape.len() == 2 => {
                // A size that the graph leaves open is -1.
                if let Ok(found) = usize::try_from(shape[1])
                    && found != width
                {
                    return Err(format!(
                        "output {name} is {found} wide, {origin} in {} says {width}",
                        crate::bundle::MANIFEST
                    ));
                }
            }
            Some(other) => return Err(format!("output {name} is {other:?}, expected float32 [b, {width}]")),
            None => return Err(format!("the graph has no output {name}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
