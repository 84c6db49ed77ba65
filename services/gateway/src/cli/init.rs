//! `guildhall init`: a configuration for what this machine has.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{Failure, say};

/// How long a local model server may take to answer.
const PATIENCE: Duration = Duration::from_millis(800);

/// Model servers and the loopback ports that they take unless told otherwise.
const SERVERS: [(&str, u16); 5] =
    [("ollama", 11434), ("vllm", 8000), ("llama-server", 8080), ("sglang", 30000), ("lm-studio", 1234)];

/// All categories that the shipped router knows; a lone model is good for each of them.
const GENERAL_SKILL: f32 = 0.7;

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to write the configuration.
    #[arg(long, short, default_value = "guildhall.yaml", value_name = "FILE")]
    output: PathBuf,
    /// Overwrite an existing file.
    #[arg(long)]
    force: bool,
}

/// A model that can be put behind the gateway.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    server: String,
    url: String,
    model: String,
    key: Option<&'static str>,
}

/// The list that every OpenAI-compatible server gives.
#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// Looks for keys and servers and writes what it found.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.output.exists() && !args.force {
        return Err(Failure::Usage(format!(
            "{} is there already; give --force to overwrite it, or --output another name",
            args.output.display()
        )));
    }
    let mut found = Vec::new();
    for (name, port) in SERVERS {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        match models_at(address) {
            Some(models) => {
                say(format!("found {name} at http://{address} with {}", models.join(", ")))?;
                found.extend(models.into_iter().map(|model| Found {
                    server: name.to_owned(),
                    url: format!("http://{address}/v1"),
                    model,
                    key: None,
                }));
            }
            None => say(format!("nothing like {name} at http://{address}"))?,
        }
    }
    if std::env::var("OPENAI_API_KEY").is_ok_and(|k| !k.is_empty()) {
        say("found OPENAI_API_KEY")?;
        let url = std::env::var("OPENAI_BASE_URL").unwrap_or_else(|_| "https://api.openai.com/v1".into());
        for model in ["gpt-4o-mini", "gpt-4o"] {
            let (server, url) = ("openai".into(), url.clone());
            found.push(Found { server, url, model: model.into(), key: Some("OPENAI_API_KEY") });
        }
    }
    if found.is_empty() {
        return Err(Failure::Usage(
            "no model server and no key was found; start one (for example `ollama serve`), or set \
             OPENAI_API_KEY, and run this again. `guildhall serve` without a configuration shows the routing \
             with demo experts"
                .into(),
        ));
    }
    let text = render(&found);
    // What is written must be what `serve` accepts.
    crate::config::parse(&text, &|name| std::env::var(name).ok())?;
    write_new(&args.output, &text)?;
    say(format!(
        "wrote {} with {} experts; edit their skills, then run: guildhall serve --config {}",
        args.output.display(),
        found.len(),
        args.output.display()
    ))
}

/// Writes beside the target and renames, so that a crash leaves no half file.
fn write_new(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)?;
    Ok(())
}

/// The models that a server lists, if it is one. A plain blocking request: nothing else goes on here.
fn models_at(address: SocketAddr) -> Option<Vec<String>> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.set_write_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET /v1/models HTTP/1.0\r\nhost: {address}\r\naccept: application/json\r\n\r\n");
    socket.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    socket.take(1 << 20).read_to_end(&mut answer).ok()?;
    parse_models(&answer)
}

/// Reads an HTTP/1.0 answer: the JSON between the first `{` after the head and the last `}`.
fn parse_models(answer: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    if !head.lines().next()?.contains(" 200") {
        return None;
    }
    let body = &body[body.find('{')?..=body.rfind('}')?];
    let models: Models = serde_json::from_str(body).ok()?;
    let ids: Vec<String> = models.data.into_iter().map(|m| m.id).collect();
    // A gateway of this kind lists `auto`; it is no expert for itself.
    (!ids.is_empty() && !ids.iter().any(|id| id == "auto")).then_some(ids)
}

/// The configuration's text. Every model starts as good at everything; names that tell more are believed.
fn render(found: &[Found]) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = String::from(
        "# Written by `guildhall init`. Every key is described in config/guildhall.yaml.\n\
         # `skills` says how well an expert does in each category, 0 to 1: edit it to your experience.\n\
         experts:\n",
    );
    let mut ids: Vec<String> = Vec::new();
    for f in found {
        let mut id = if routing::ExpertId::new(&f.model).is_ok() {
            f.model.clone()
        } else {
            format!("{}-model", f.server)
        };
        while ids.contains(&id) {
            id = format!("{}/{id}", f.server);
        }
        let _ = write!(
            text,
            "  - id: {}\n    description: {}\n    backend:\n      kind: llm\n      endpoints:\n        - url: {}\n      model: {}\n",
            quoted(&id),
            quoted(&format!("{} at {}", f.model, f.server)),
            quoted(&f.url),
            quoted(&f.model)
        );
        if let Some(variable) = f.key {
            let _ = writeln!(text, "      api_key: ${{{variable}}}");
        }
        text.push_str("    skills:\n");
        for (category, skill) in skills(&f.model) {
            let _ = writeln!(text, "      {category}: {skill}");
        }
        text.push_str("    capabilities: {tools: true, vision: true, json_schema: true}\n");
        ids.push(id);
    }
    // Whatever the router is unsure about goes to a model that is no specialist, where there is one.
    let general = found.iter().position(|f| !is_coder(&f.model) && !is_mathematician(&f.model));
    let general = quoted(ids.get(general.unwrap_or(0)).map_or("", String::as_str));
    let _ = write!(
        text,
        "routes:\n  - id: auto\n    description: The expert that suits the prompt\n    policy:\n      kind: coe\n      \
         uncertain: {{threshold: 0.6, robust: {general}}}\n    default: {general}\n"
    );
    text
}

fn is_coder(model: &str) -> bool {
    let name = model.to_lowercase();
    ["code", "devstral"].iter().any(|w| name.contains(w))
}

fn is_mathematician(model: &str) -> bool {
    model.to_lowercase().contains("math")
}

/// A first guess of a model's skills from its name.
fn skills(model: &str) -> Vec<(&'static str, f32)> {
    let (coder, maths) = (is_coder(model), is_mathematician(model));
    let categories = [
        "assistant_actions",
        "chitchat",
        "coding",
        "creative_writing",
        "data_sql",
        "extraction_classification",
        "finance_business",
        "general_knowledge",
        "humanities_social",
        "legal",
        "logical_reasoning",
        "math",
        "medical",
        "multilingual",
        "roleplay",
        "science_engineering",
        "summarization",
        "text_editing",
        "translation",
    ];
    categories
        .into_iter()
        .map(|category| {
            let strong = (coder && matches!(category, "coding" | "data_sql"))
                || (maths && matches!(category, "math" | "logical_reasoning"));
            let special = coder || maths;
            let skill = if strong {
                0.9
            } else if special {
                0.5
            } else {
                GENERAL_SKILL
            };
            (category, skill)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_list() {
        let answer = b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"object\":\"list\",\"data\":[{\"id\":\"llama3.2:3b\"}]}";
        assert_eq!(parse_models(answer), Some(vec!["llama3.2:3b".to_owned()]));
        let chunked = b"HTTP/1.1 200 OK\r\n\r\n1f\r\n{\"data\":[{\"id\":\"m\"}]}\r\n0\r\n\r\n";
        assert_eq!(parse_models(chunked), Some(vec!["m".to_owned()]));
        for other in
            [&b"HTTP/1.1 404 Not Found\r\n\r\n{}"[..], b"HTTP/1.1 200 OK\r\n\r\n<html>", b"", b"\xff"]
        {
            assert_eq!(parse_models(other), None);
        }
        let ours = b"HTTP/1.1 200 OK\r\n\r\n{\"data\":[{\"id\":\"auto\"}]}";
        assert_eq!(parse_models(ours), None);
    }

    #[test]
    fn what_is_written_is_a_valid_configuration() {
        let found = |server: &str, model: &str, key| Found {
            server: server.into(),
            url: "http://127.0.0.1:11434/v1".into(),
            model: model.into(),
            key,
        };
        let text = render(&[
            found("ollama", "qwen2.5-coder:7b", None),
            found("ollama", "a model \"with\" odd: characters", None),
            found("vllm", "qwen2.5-coder:7b", None),
            found("openai", "gpt-4o", Some("OPENAI_API_KEY")),
        ]);
        let config = crate::config::parse(&text, &|_| Some("sk-of-the-test-0123456789".into())).unwrap();
        let ids: Vec<&str> = config.experts.iter().map(|e| e.id.as_str()).collect();
        assert_eq!(ids, ["qwen2.5-coder:7b", "ollama-model", "vllm/qwen2.5-coder:7b", "gpt-4o"]);
        assert!(config.experts[0].skills["coding"] > config.experts[0].skills["legal"]);
        assert_eq!(config.routes[0].default.as_ref().unwrap().as_str(), "ollama-model");
    }
}
