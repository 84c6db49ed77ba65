//! An expert out of a file or out of flags.

use std::io::Read;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::cli::Failure;

/// A file with experts.
#[derive(Debug, clap::Args)]
pub(super) struct FileArg {
    /// A YAML or JSON file: one expert, a list of them, or a configuration's `experts`. `-` reads standard input.
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// An expert's settings, one by one.
#[derive(Debug, Default, clap::Args)]
#[group(conflicts_with = "file")]
pub(super) struct Settings {
    /// The base URL of an OpenAI-compatible server, such as `http://127.0.0.1:11434/v1`, or of one that speaks
    /// Messages.
    #[arg(long, value_name = "URL")]
    endpoint: Vec<String>,
    /// What the server speaks; chat completions when not given.
    #[arg(long, value_name = "PROTOCOL", value_parser = ["chat_completions", "messages"])]
    protocol: Option<String>,
    /// What the server calls the model; the expert's id when not given.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The environment variable that holds the server's API key.
    #[arg(long, value_name = "VARIABLE")]
    api_key_env: Option<String>,
    /// What the expert is good at, for people.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// How good it is at a category, 0 to 1; may be repeated.
    #[arg(long = "skill", value_name = "CATEGORY=WEIGHT", value_parser = skill)]
    skills: Vec<(String, f64)>,
    /// What it can do: tools, vision, `json_schema`.
    #[arg(long = "can", value_name = "ABILITY", value_delimiter = ',', value_parser = ["tools", "vision", "json_schema"])]
    abilities: Vec<String>,
    /// The longest prompt and answer together, in tokens.
    #[arg(long, value_name = "TOKENS")]
    context_tokens: Option<u32>,
    /// Price of the prompt in USD per million tokens.
    #[arg(long, value_name = "USD")]
    input_price: Option<f64>,
    /// Price of the answer in USD per million tokens.
    #[arg(long, value_name = "USD")]
    output_price: Option<f64>,
}

fn skill(text: &str) -> Result<(String, f64), String> {
    let (category, weight) = text.split_once('=').ok_or("write it as CATEGORY=WEIGHT, such as coding=0.9")?;
    let number = weight.parse().map_err(|_| format!("`{weight}` is not a number"))?;
    Ok((category.to_owned(), number))
}

impl FileArg {
    /// The file's experts; `None` without a file.
    pub(super) fn read(&self) -> Result<Option<Vec<Value>>, Failure> {
        let Some(path) = &self.file else { return Ok(None) };
        let unreadable = |e: &dyn std::fmt::Display| Failure::Usage(format!("{}: {e}", path.display()));
        let mut text = String::new();
        if path.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text).map_err(|e| unreadable(&e))?;
        } else {
            text = std::fs::read_to_string(path).map_err(|e| unreadable(&e))?;
        }
        experts_in(&text).map(Some).map_err(|e| unreadable(&e))
    }
}

/// JSON is read as the YAML that it is.
fn experts_in(text: &str) -> Result<Vec<Value>, String> {
    let tree: Value = serde_saphyr::from_str(text).map_err(|e| format!("not valid YAML or JSON: {e}"))?;
    let experts = match tree {
        Value::Array(experts) => experts,
        Value::Object(mut fields) => match fields.remove("experts") {
            Some(Value::Array(experts)) => experts,
            Some(_) => return Err("experts: must be a list".into()),
            None => vec![Value::Object(fields)],
        },
        _ => return Err("must hold an expert or a list of experts".into()),
    };
    match experts.iter().position(|e| !e.is_object()) {
        Some(at) => Err(format!("[{at}]: must be an expert, with `id` and `backend`")),
        None if experts.is_empty() => Err("holds no expert".into()),
        None => Ok(experts),
    }
}

impl Settings {
    /// A new expert.
    pub(super) fn expert(&self, id: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Value, Failure> {
        if self.endpoint.is_empty() {
            return Err(Failure::Usage("a new expert needs --endpoint URL, or --file".into()));
        }
        let mut fields = self.fields(env)?;
        fields.insert("id".into(), id.into());
        Ok(Value::Object(fields))
    }

    /// A merge patch with what is given.
    pub(super) fn patch(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Value, Failure> {
        let fields = self.fields(env)?;
        if fields.is_empty() {
            return Err(Failure::Usage("nothing to change: give a file or at least one setting".into()));
        }
        Ok(Value::Object(fields))
    }

    fn fields(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Map<String, Value>, Failure> {
        let mut fields = Map::new();
        let mut backend = Map::new();
        if !self.endpoint.is_empty() {
            let endpoints: Vec<Value> = self.endpoint.iter().map(|url| json!({ "url": url })).collect();
            backend.insert("kind".into(), "llm".into());
            backend.insert("endpoints".into(), endpoints.into());
        }
        if let Some(protocol) = &self.protocol {
            backend.insert("protocol".into(), protocol.as_str().into());
        }
        if let Some(model) = &self.model {
            backend.insert("model".into(), model.as_str().into());
        }
        if let Some(name) = &self.api_key_env {
            let key = env(name).filter(|key| !key.is_empty());
            let key = key.ok_or_else(|| Failure::Usage(format!("--api-key-env: {name} is not set")))?;
            backend.insert("api_key".into(), key.into());
        }
        let mut add = |name: &str, part: Map<String, Value>| {
            if !part.is_empty() {
                fields.insert(name.to_owned(), part.into());
            }
        };
        add("backend", backend);
        add(
            "skills",
            self.skills.iter().map(|(category, weight)| (category.clone(), json!(weight))).collect(),
        );
        add("capabilities", self.abilities.iter().map(|ability| (ability.clone(), true.into())).collect());
        let prices = [("input", self.input_price), ("output", self.output_price)];
        add(
            "cost",
            prices.iter().filter_map(|(name, usd)| Some(((*name).to_owned(), json!((*usd)?)))).collect(),
        );
        if let Some(description) = &self.description {
            fields.insert("description".into(), description.as_str().into());
        }
        if let Some(tokens) = self.context_tokens {
            fields.insert("context_tokens".into(), tokens.into());
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_expert_or_many() {
        let one = "id: a\nbackend: {kind: constant, text: hi}\n";
        let expected = json!({"id": "a", "backend": {"kind": "constant", "text": "hi"}});
        assert_eq!(experts_in(one).unwrap(), std::slice::from_ref(&expected));
        assert_eq!(experts_in(&expected.to_string()).unwrap(), std::slice::from_ref(&expected));
        assert_eq!(experts_in(&format!("experts: [{expected}, {expected}]")).unwrap().len(), 2);
        assert_eq!(experts_in(&format!("[{expected}]")).unwrap().len(), 1);
        for (bad, words) in [
            ("[1]", "[0]: must be an expert"),
            ("[]", "holds no expert"),
            ("experts: 3", "must be a list"),
            ("just words", "must hold an expert"),
            ("{", "not valid YAML"),
        ] {
            let error = experts_in(bad).unwrap_err();
            assert!(error.contains(words), "{bad}: {error}");
        }
    }

    #[test]
    fn flags_are_an_expert_or_a_patch() {
        let settings = Settings {
            endpoint: vec!["http://h/v1".into()],
            api_key_env: Some("KEY".into()),
            skills: vec![("coding".into(), 0.9)],
            abilities: vec!["tools".into()],
            input_price: Some(0.5),
            ..Settings::default()
        };
        let env = |name: &str| (name == "KEY").then(|| "sk".to_owned());
        let expected = json!({
            "id": "a",
            "backend": {"kind": "llm", "endpoints": [{"url": "http://h/v1"}], "api_key": "sk"},
            "skills": {"coding": 0.9}, "capabilities": {"tools": true}, "cost": {"input": 0.5},
        });
        assert_eq!(settings.expert("a", &env).unwrap(), expected);
        let error = settings.expert("a", &|_| None).unwrap_err().to_string();
        assert_eq!(error, "--api-key-env: KEY is not set");

        let patch =
            Settings { description: Some("d".into()), context_tokens: Some(8), ..Settings::default() };
        assert_eq!(patch.patch(&env).unwrap(), json!({"description": "d", "context_tokens": 8}));
        assert!(Settings::default().patch(&env).is_err());
        assert!(patch.expert("a", &env).unwrap_err().to_string().contains("--endpoint"));
        assert_eq!(skill("math=0.25"), Ok(("math".into(), 0.25)));
        assert!(skill("math").is_err() && skill("math=much").is_err());
    }
}
