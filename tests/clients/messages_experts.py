"""An expert that speaks Anthropic's Messages only, by the official clients of all protocols."""

import json

import anthropic
import openai
from pydantic import BaseModel

from harness import GATEWAY, KEYS, PNG, SEARCH, WEATHER, claude, holds, main, raises, same

QUESTION = "Write a haiku about routers"
ASK = [{"role": "user", "content": QUESTION}]
MODEL = "claude"

chats = openai.OpenAI(base_url=GATEWAY + "/v1", api_key=KEYS["all"], max_retries=0)
messages = anthropic.Anthropic(base_url=GATEWAY, api_key=KEYS["all"], max_retries=0)
# The expert itself, to compare with.
direct = anthropic.Anthropic(base_url=claude.url, api_key="any", max_retries=0)


def chat(**arguments):
    return chats.chat.completions.create(**{"model": MODEL, "messages": ASK} | arguments)


def streamed(**arguments):
    """The completion that the stream helper makes, and the chunks."""
    with chats.chat.completions.stream(**{"model": MODEL, "messages": ASK} | arguments) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        return stream.get_final_completion(), chunks


def create(client=messages, **arguments):
    return client.messages.create(**{"model": MODEL, "max_tokens": 500, "messages": ASK} | arguments)


def function(name, **properties):
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def dictate(*content, **rest):
    return {"mock_answer": {"content": list(content)} | rest}


def call(name, id, arguments):
    return {"type": "tool_use", "id": id, "name": name, "input": json.loads(arguments)}


FUNCTIONS = [function("get_weather", city={"type": "string"}), function("search", query={"type": "string"})]
THINKING = {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"}
TWO_CALLS = dictate({"type": "text", "text": "Let me look."}, call("get_weather", "toolu_w", WEATHER),
                    call("search", "toolu_s", SEARCH), stop_reason="tool_use")


# Chat completions.


def test_a_chat_is_answered():
    answer = chat()
    same((answer.object, answer.model, answer.choices[0].finish_reason), ("chat.completion", MODEL, "stop"))
    holds(answer.choices[0].message.content, QUESTION)
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    sent = claude.last()
    same((sent["model"], sent["max_tokens"]), ("claude-1", 4096))


def test_a_stream_is_the_same_answer():
    final, chunks = streamed(stream_options={"include_usage": True})
    whole = chat()
    same((final.choices[0].message.content, final.choices[0].finish_reason, final.usage),
         (whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage))
    assert len(chunks) > 5, chunks
    same({chunk.id for chunk in chunks}, {whole.id})


def test_two_calls_of_tools_and_their_results():
    for message in (chat(tools=FUNCTIONS, extra_body=TWO_CALLS).choices[0].message,
                    streamed(tools=FUNCTIONS, extra_body=TWO_CALLS)[0].choices[0].message):
        same(message.content, "Let me look.")
        same([(made.id, made.function.name, json.loads(made.function.arguments)) for made in message.tool_calls],
             [("toolu_w", "get_weather", json.loads(WEATHER)), ("toolu_s", "search", json.loads(SEARCH))])
        said = chat(tools=FUNCTIONS, messages=[
            *ASK, message.to_dict(), {"role": "tool", "tool_call_id": "toolu_w", "content": "rain"},
            {"role": "tool", "tool_call_id": "toolu_s", "content": "found"}])
        holds(said.choices[0].message.content, "The tool said")
        turns = claude.last()["messages"]
        same([turn["role"] for turn in turns], ["user", "assistant", "user"])
        same([block["tool_use_id"] for block in turns[2]["content"]], ["toolu_w", "toolu_s"])


def test_structured_output_is_parsed():
    class Town(BaseModel):
        name: str
        people: int

    answer = chats.chat.completions.parse(model=MODEL, messages=ASK, response_format=Town)
    assert isinstance(answer.choices[0].message.parsed, Town), answer


def test_images_reach_the_expert():
    url = f"data:image/png;base64,{PNG}"
    answer = chat(messages=[{"role": "user", "content": [
        {"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": url}}]}])
    holds(answer.choices[0].message.content, "1 image(s)")
    same(claude.last()["messages"][0]["content"][1]["source"]["data"], PNG)


def test_thinking_comes_back_with_its_signature():
    answer = chat(reasoning_effort="high", extra_body=dictate(THINKING, {"type": "text", "text": "yes"}))
    message = answer.choices[0].message.to_dict()
    same((message["reasoning_content"], message["thinking_blocks"]), ("Let me see.", [THINKING]))
    same((claude.last()["thinking"], claude.last()["output_config"]), ({"type": "adaptive"}, {"effort": "high"}))
    chat(messages=[*ASK, message, {"role": "user", "content": "go on"}])
    same(claude.last()["messages"][1]["content"][0], THINKING)


def test_limits_and_cached_tokens_are_told():
    same(chat(max_completion_tokens=3).choices[0].finish_reason, "length")
    usage = {"input_tokens": 4, "cache_read_input_tokens": 16, "output_tokens": 9}
    said = dictate({"type": "text", "text": "x"}, usage=usage)
    final, _ = streamed(stream_options={"include_usage": True}, extra_body=said)
    for got in (chat(extra_body=said).usage, final.usage):
        same((got.prompt_tokens, got.prompt_tokens_details.cached_tokens, got.completion_tokens), (20, 16, 9))


def test_errors_are_openais():
    with claude.failing("status:529"), raises(openai.InternalServerError) as caught:
        chat()
    same((caught.status_code, caught.code), (503, "overloaded"))
    with claude.failing("status:429"), raises(openai.RateLimitError):
        chat()
    with raises(openai.BadRequestError) as caught:
        chat(n=2)
    same(caught.code, "unsupported_capability")
    with claude.failing("reset-mid"), raises(openai.APIError):
        streamed()


def test_a_client_that_leaves_cancels():
    long = " ".join(["word"] * 200_000)
    with claude.cancelled():
        stream = chat(stream=True, extra_body=dictate({"type": "text", "text": long}))
        next(iter(stream))
        stream.close()


# Responses.


def test_responses_are_answered():
    answer = chats.responses.create(model=MODEL, input=QUESTION)
    holds(answer.output_text, QUESTION)
    assert answer.usage.output_tokens > 0, answer.usage
    with chats.responses.stream(model=MODEL, input=QUESTION) as stream:
        events = list(stream)
        final = stream.get_final_response()
    same((final.output_text, events[-1].type), (answer.output_text, "response.completed"))


def test_responses_call_tools():
    tool = {"type": "function", "name": "get_weather", "parameters": FUNCTIONS[0]["function"]["parameters"], "strict": False}
    answer = chats.responses.create(model=MODEL, input=QUESTION, tools=[tool], extra_body=TWO_CALLS)
    calls = [item for item in answer.output if item.type == "function_call"]
    same([json.loads(made.arguments) for made in calls], [json.loads(WEATHER), json.loads(SEARCH)])
    result = {"type": "function_call_output", "call_id": calls[0].call_id, "output": "rain"}
    said = chats.responses.create(model=MODEL, tools=[tool], input=[
        {"role": "user", "content": QUESTION}, calls[0].to_dict(), result])
    holds(said.output_text, 'The tool said: "rain"')


# Messages.


def test_messages_are_passed_on_unchanged():
    arguments = {
        "system": [{"type": "text", "text": "kind", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}, {"type": "bash_20250124", "name": "bash"}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "messages": [*ASK, {"role": "assistant", "content": [THINKING, {"type": "text", "text": "told"}]},
                     {"role": "user", "content": "again"}],
    }
    through = create(**arguments)
    sent = claude.last()
    same(sent, {"model": "claude-1", "max_tokens": 500} | arguments)
    own = create(direct, **arguments | {"model": "claude-1"})
    same(through.to_dict() | {"model": "claude-1"}, own.to_dict())
    same(through.model, MODEL)


def test_streamed_messages_are_passed_on_unchanged():
    said = dictate(THINKING, {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
                   {"type": "text", "text": "found it"}, call("search", "toolu_s", SEARCH), stop_reason="tool_use")
    events = [[event.to_dict() for event in create(client, stream=True, extra_body=said, model=model)]
              for client, model in ((messages, MODEL), (direct, "claude-1"))]
    same(events[0][0]["message"].pop("model"), MODEL)
    events[1][0]["message"].pop("model")
    same(events[0], events[1])


def test_errors_are_anthropics():
    with claude.failing("status:529"), raises(anthropic.APIStatusError) as caught:
        create()
    same((caught.status_code, caught.body["error"]["type"]), (529, "overloaded_error"))
    with claude.failing("reset-mid"), raises(anthropic.APIError):
        list(create(stream=True))


if __name__ == "__main__":
    main(globals())
