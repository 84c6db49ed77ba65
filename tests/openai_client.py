"""What users do with the official OpenAI client, asserted step by step. Argument: the base URL."""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0)


def done(what):
    print("ok", what)


models = [m.id for m in client.models.list()]
assert models[0] == "auto" and "coder" in models, models
assert client.models.retrieve("coder").id == "coder"
done("lists models")

ask = [{"role": "user", "content": "Write a haiku about routers"}]
chat = client.chat.completions.create(model="auto", messages=ask)
assert chat.model == "coder" and chat.choices[0].message.content, chat
assert chat.usage.total_tokens > 0
raw = client.chat.completions.with_raw_response.create(model="auto", messages=ask)
assert raw.headers["x-guildhall-expert"] == "coder" and raw.request_id, raw.headers
done("chats")

chunks = list(client.chat.completions.create(
    model="auto", messages=ask, stream=True, stream_options={"include_usage": True}))
assert chunks[0].choices[0].delta.role == "assistant"
assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
assert chunks[-1].usage.completion_tokens > 0 and len({c.id for c in chunks}) == 1
assert all(c.choices for c in client.chat.completions.create(model="auto", messages=ask, stream=True))
done("streams")

tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
call = client.chat.completions.create(model="auto", messages=ask, tools=tools).choices[0].message.tool_calls[0]
assert call.function.name == "get_weather" and "city" in call.function.arguments
parts = [c.choices[0].delta.tool_calls for c in
         client.chat.completions.create(model="auto", messages=ask, tools=tools, stream=True) if c.choices]
arguments = "".join(p[0].function.arguments or "" for p in parts if p)
assert arguments == call.function.arguments, (arguments, call.function.arguments)
done("calls tools")

schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {
    "type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}}}
assert client.chat.completions.create(model="auto", messages=ask, response_format=schema).choices[0].message.content
assert len(client.chat.completions.create(model="auto", messages=ask, n=3).choices) == 3
logprobs = client.chat.completions.create(model="auto", messages=ask, logprobs=True, top_logprobs=2)
assert logprobs.choices[0].logprobs.content
assert client.completions.create(model="auto", prompt="once upon a time").choices[0].text
assert len(client.embeddings.create(model="coder", input=["a", "b"]).data) == 2
done("uses schemas, n, logprobs, completions and embeddings")


def fails(kind, **arguments):
    try:
        client.chat.completions.create(**{"model": "auto", "messages": ask} | arguments)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


error = fails(openai.NotFoundError, model="nobody")
assert error.code == "model_not_found" and error.param == "model", error
assert fails(openai.BadRequestError, messages=[]).param == "messages"
assert fails(openai.BadRequestError, messages=[{"role": "user", "content": [
    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]).code == "unsupported_capability"
assert fails(openai.RateLimitError, model="busy").response.headers["retry-after"] == "1"
done("gets typed errors")
