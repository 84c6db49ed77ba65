//! Chat completion to Responses answer.

use super::Echo;
use super::item::{Item, Kind, State, custom_input, logprobs, response};
use crate::Stamp;
use crate::chat::{Completion, Finish};
use crate::error::BadAnswer;
use crate::json::Json;
use crate::stream::Block;

/// Translates a whole answer to the request which `echo` comes from.
///
/// # Errors
/// [`BadAnswer`] when the expert's body is no chat completion.
pub fn answer(body: &[u8], echo: &Echo, stamp: &Stamp) -> Result<Vec<u8>, BadAnswer> {
    let mut completion = Completion::read(body)?;
    let mut choice = completion.choice().ok_or_else(|| BadAnswer::new("it has no choice"))?;
    let message = choice.message().ok_or_else(|| BadAnswer::new("its choice has no message"))?;
    let finish = choice.finish().unwrap_or(Finish::Stop);

    let reasoning = message.reasoning();
    let texts = [
        (Block::Thinking, reasoning.as_deref()),
        (Block::Text, message.content.as_ref().map(|text| &*text.0)),
        (Block::Refusal, message.refusal.as_ref().map(|text| &*text.0)),
    ];
    let texts =
        texts.into_iter().filter_map(|(block, text)| Some((block, text.filter(|t| !t.is_empty())?.into())));
    let mut blocks: Vec<(Block<'_>, std::borrow::Cow<'_, str>)> = texts.collect();
    for call in message.tool_calls.iter().flatten() {
        let name = call.name().ok_or_else(|| BadAnswer::new("it has a tool call without a name"))?;
        blocks.push((Block::Tool { id: call.id(), name }, call.arguments()));
    }

    let mut output = Vec::with_capacity(body.len());
    let last = blocks.len().saturating_sub(1);
    for (index, (block, text)) in blocks.iter().enumerate() {
        let item = Item::new(*block, index as u64, echo, stamp);
        let cut = index == last && matches!(finish, Finish::Length | Finish::Filter);
        let status = if cut { "incomplete" } else { "completed" };
        let probabilities = choice.logprobs().filter(|_| item.kind == Kind::Text).map(logprobs);
        let probabilities = probabilities.unwrap_or_default();
        if item.kind == Kind::Custom {
            item.write(&mut Json(&mut output), status, Some(&custom_input(text)), &[]);
        } else {
            item.write(&mut Json(&mut output), status, Some(text), &probabilities);
        }
    }
    let model = completion.model.as_ref().map_or(&*echo.model, |model| &*model.0);
    let mut out = Vec::with_capacity(output.len() + echo.fields.len() + 512);
    let state = State::Ended(finish, completion.usage);
    Json(&mut out).object(|o| response(o, echo, stamp, model, &output, &state));
    Ok(out)
}
