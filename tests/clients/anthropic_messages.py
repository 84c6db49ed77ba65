"""Anthropic's Messages API by its official client; experts speak chat completions only."""

import asyncio
import json

import anthropic
import httpx2
from pydantic import BaseModel

from harness import (
    GATEWAY, KEYS, PNG, SEARCH, TWO_CALLS, WEATHER, counting, holds, lasting, main, mock, odd_pieces, raises, same,
)

QUESTION = "Write a haiku about routers"
ASK = [{"role": "user", "content": QUESTION}]


def tool(name, **properties):
    return {"name": name, "description": f"does {name}",
            "input_schema": {"type": "object", "properties": properties, "required": list(properties)}}


TOOLS = [tool("get_weather", city={"type": "string"}), tool("search", query={"type": "string"})]


def make(key="all", **options):
    return anthropic.Anthropic(base_url=GATEWAY, api_key=KEYS[key], **{"max_retries": 0} | options)


client = make()


def create(client=client, **arguments):
    return client.messages.create(**{"model": "auto", "max_tokens": 500, "messages": ASK} | arguments)


def streamed(**arguments):
    """The events of a stream and the message that its helper made of them."""
    with client.messages.stream(**{"model": "auto", "max_tokens": 500, "messages": ASK} | arguments) as stream:
        events = list(stream)
        return events, stream.get_final_message()


def dictate(*deltas, **rest):
    return {"mock_answer": {"deltas": list(deltas)} | rest}


def without_id(message):
    """What two answers to the same request have in common."""
    content = message.to_dict()
    content.pop("id")
    # The client's stream helper adds these.
    content.pop("stop_details", None)
    for block in content["content"]:
        block.pop("parsed_output", None)
    return content


def wire_events(**arguments):
    """The names of the events as they are on the wire, without the helper's own."""
    return [event.type for event in create(stream=True, **arguments)]


# Whole answers.


def test_a_message_is_created():
    message = create()
    same((message.type, message.role, message.model), ("message", "assistant", "coder"))
    assert message.id.startswith("msg_"), message.id
    holds(message.content[0].text, QUESTION)
    same((message.stop_reason, message.stop_sequence), ("end_turn", None))
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0, message.usage
    same(mock.last()["messages"], ASK)


def test_system_is_a_text_or_blocks():
    create(system="be brief")
    same(mock.last()["messages"][0], {"role": "system", "content": "be brief"})
    cached = {"type": "text", "text": "kind", "cache_control": {"type": "ephemeral"}}
    create(system=[{"type": "text", "text": "be "}, cached])
    first = mock.last()["messages"][0]
    same(first["role"], "system")
    holds(json.dumps(first), "be ")
    holds(json.dumps(first), "kind")


def test_a_conversation_keeps_its_turns():
    create(messages=[*ASK, {"role": "assistant", "content": [{"type": "text", "text": "told"}]},
                     {"role": "user", "content": [{"type": "text", "text": "again \U0001f600"}]}])
    messages = mock.last()["messages"]
    same([message["role"] for message in messages], ["user", "assistant", "user"])
    holds(json.dumps(messages[2], ensure_ascii=False), "again \U0001f600")


def test_parameters_become_those_of_chat_completions():
    # The client has no names for the sampling parameters any more; the API still takes them.
    create(stop_sequences=["END", "\n"], metadata={"user_id": "u"},
           extra_body={"temperature": 0.25, "top_p": 0.5, "guided_regex": "a+"})
    got = mock.last()
    same({name: got[name] for name in ("max_tokens", "stop", "temperature", "top_p", "user", "guided_regex", "model")},
         {"max_tokens": 500, "stop": ["END", "\n"], "temperature": 0.25, "top_p": 0.5, "user": "u",
          "guided_regex": "a+", "model": "coder"})


def test_a_limit_ends_a_message():
    same(create(max_tokens=3).stop_reason, "max_tokens")
    same(streamed(max_tokens=3)[1].stop_reason, "max_tokens")


def test_a_met_stop_sequence_is_named():
    met = dictate({"content": "one"}, stop_reason="END")
    message = create(stop_sequences=["END"], extra_body=met)
    same((message.stop_reason, message.stop_sequence), ("stop_sequence", "END"))
    final = streamed(stop_sequences=["END"], extra_body=met)[1]
    same((final.stop_reason, final.stop_sequence), ("stop_sequence", "END"))


def test_images_reach_the_expert():
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    message = create(messages=[{"role": "user", "content": [
        {"type": "image", "source": source}, {"type": "text", "text": "what is this"},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}]}])
    holds(message.content[0].text, "2 image(s)")
    parts = mock.last()["messages"][0]["content"]
    same([part["image_url"]["url"] for part in parts if part["type"] == "image_url"],
         [f"data:image/png;base64,{PNG}", "https://example.com/a.png"])


def test_usage_tells_cached_tokens_apart():
    usage = {"prompt_tokens": 20, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 16}}
    said = dictate({"content": "x"}, usage=usage)
    for message in (create(extra_body=said), streamed(extra_body=said)[1]):
        got = message.usage
        same((got.input_tokens, got.cache_read_input_tokens, got.output_tokens), (4, 16, 9))


def test_a_refusal_is_one():
    said = dictate({"refusal": "I will "}, {"refusal": "not."})
    for message in (create(extra_body=said), streamed(extra_body=said)[1]):
        same((message.stop_reason, message.content[0].text), ("refusal", "I will not."))


# Streams.


def test_a_text_streams_its_events_in_order():
    kinds = wire_events()
    same(kinds[:2], ["message_start", "content_block_start"])
    same(kinds[-3:], ["content_block_stop", "message_delta", "message_stop"])
    same(set(kinds[2:-3]), {"content_block_delta"})


def test_a_streams_final_message_is_the_whole_one():
    events, final = streamed()
    same(without_id(final), without_id(create()))
    same(events[-1].message, final)
    starts = [event.message.id for event in events if event.type == "message_start"]
    same(starts, [final.id])


def test_the_text_of_a_stream_comes_in_pieces():
    with client.messages.stream(model="auto", max_tokens=500, messages=ASK) as stream:
        pieces = list(stream.text_stream)
        same("".join(pieces), stream.get_final_text())
    assert len(pieces) > 5, pieces
    same("".join(pieces), create().content[0].text)


# Tools.


def test_a_tool_is_used():
    message = create(tools=TOOLS, tool_choice={"type": "tool", "name": "search"})
    same(message.stop_reason, "tool_use")
    use = message.content[0]
    same((use.type, use.name, use.input), ("tool_use", "search", {"query": QUESTION}))
    sent = mock.last()
    same(sent["tools"][1]["function"]["parameters"], TOOLS[1]["input_schema"])
    same(sent["tool_choice"]["function"]["name"], "search")


def test_tool_choices_are_carried_over():
    for choice, sent in (({"type": "auto"}, "auto"), ({"type": "any"}, "required"), ({"type": "none"}, "none")):
        create(tools=TOOLS, tool_choice=choice)
        same(mock.last()["tool_choice"], sent)
    create(tools=TOOLS, tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    same(mock.last()["parallel_tool_calls"], False)


def test_parallel_uses_come_whole():
    message = create(tools=TOOLS, extra_body={"mock_answer": TWO_CALLS})
    same([block.type for block in message.content], ["text", "tool_use", "tool_use"])
    same([(use.id, use.name, use.input) for use in message.content[1:]],
         [("call_w", "get_weather", json.loads(WEATHER)), ("call_s", "search", json.loads(SEARCH))])


def test_parallel_uses_are_streamed_piece_by_piece():
    pieces, blocks = {}, []
    for event in create(tools=TOOLS, stream=True, extra_body={"mock_answer": TWO_CALLS}):
        if event.type == "content_block_start":
            blocks.append((event.index, event.content_block.type))
        elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            pieces.setdefault(event.index, []).append(event.delta.partial_json)
    same(blocks, [(0, "text"), (1, "tool_use"), (2, "tool_use")])
    same("".join(pieces[1]), WEATHER)
    same("".join(pieces[2]), SEARCH)
    same([[piece for piece in pieces[n] if piece] for n in (1, 2)], [odd_pieces(WEATHER), odd_pieces(SEARCH)])
    _, final = streamed(tools=TOOLS, extra_body={"mock_answer": TWO_CALLS})
    same([use.input for use in final.content[1:]], [json.loads(WEATHER), json.loads(SEARCH)])
    same(without_id(final), without_id(create(tools=TOOLS, extra_body={"mock_answer": TWO_CALLS})))


def test_a_tools_result_goes_back():
    first = create(tools=TOOLS, extra_body={"mock_answer": TWO_CALLS})
    results = [
        {"type": "tool_result", "tool_use_id": "call_w", "content": [{"type": "text", "text": "sunny"}]},
        {"type": "tool_result", "tool_use_id": "call_s", "content": "42 results"},
    ]
    message = create(tools=TOOLS, messages=[
        *ASK, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}])
    holds(message.content[0].text, 'The tool said: "42 results"')
    sent = mock.last()["messages"]
    same([m["role"] for m in sent], ["user", "assistant", "tool", "tool"])
    same([json.loads(call["function"]["arguments"]) for call in sent[1]["tool_calls"]],
         [json.loads(WEATHER), json.loads(SEARCH)])
    same([m["tool_call_id"] for m in sent[2:]], ["call_w", "call_s"])


def test_a_failed_tool_is_reported_as_lossy():
    raw = client.messages.with_raw_response.create(model="auto", max_tokens=9, tools=TOOLS, messages=[
        *ASK,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "search", "input": {"query": "x"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "is_error": True, "content": "no"}]}])
    holds(raw.headers["x-guildhall-lossy"], "is_error")


def test_a_tool_runner_goes_round():
    asked = []

    @anthropic.beta_tool
    def search(query: str) -> str:
        """Searches.

        Args:
            query: what for
        """
        asked.append(query)
        return "42 results"

    runner = client.beta.messages.tool_runner(model="auto", max_tokens=500, messages=ASK, tools=[search])
    holds(runner.until_done().content[0].text, 'The tool said: "42 results"')
    same(asked, [QUESTION])


def test_a_schema_is_followed_and_parsed():
    class City(BaseModel):
        name: str
        people: int

    message = client.messages.parse(model="auto", max_tokens=500, messages=ASK, output_format=City)
    same(message.parsed_output.people, 1)
    same(mock.last()["response_format"]["json_schema"]["schema"]["required"], ["name", "people"])


# Thinking.


THOUGHT = dictate({"reasoning_content": "Let me "}, {"reasoning_content": "think."}, {"content": "Done."})


def test_thinking_is_a_block_of_its_own():
    message = create(max_tokens=9000, thinking={"type": "enabled", "budget_tokens": 5000}, extra_body=THOUGHT)
    same([block.type for block in message.content], ["thinking", "text"])
    same((message.content[0].thinking, message.content[1].text), ("Let me think.", "Done."))
    assert message.content[0].signature, message.content[0]
    same(mock.last()["reasoning_effort"], "medium")
    same([block.type for block in create(extra_body=THOUGHT).content], ["text"], "blocks when not asked for")


def test_thinking_is_streamed():
    arguments = {"max_tokens": 9000, "thinking": {"type": "adaptive"}, "extra_body": THOUGHT}
    events, final = streamed(**arguments)
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    same([delta.type for delta in deltas], ["thinking_delta", "thinking_delta", "signature_delta", "text_delta"])
    same([delta.thinking for delta in deltas[:2]], ["Let me ", "think."])
    same(without_id(final), without_id(create(**arguments)))


def test_thinking_goes_back_inside_a_tool_loop():
    call = {"tool_calls": [{"index": 0, "id": "c", "type": "function",
                            "function": {"name": "search", "arguments": '{"query": "x"}'}}]}
    first = create(tools=TOOLS, thinking={"type": "adaptive"},
                   extra_body=dictate({"reasoning_content": "I should search."}, call))
    result = {"type": "tool_result", "tool_use_id": "c", "content": "found"}
    create(tools=TOOLS, messages=[*ASK, {"role": "assistant", "content": first.content},
                                  {"role": "user", "content": [result]}])
    same(mock.last()["messages"][1]["reasoning_content"], "I should search.")


# Headers and errors.


def test_answers_carry_their_headers():
    raw = client.messages.with_raw_response.create(model="auto", max_tokens=9, messages=ASK)
    same((raw.headers["x-guildhall-expert"], raw.headers["x-guildhall-attempts"]), ("coder", "1"))
    assert raw.request_id and raw.request_id == raw.headers["x-request-id"], raw.headers
    same(create()._request_id[:4], "req-")
    with client.messages.with_streaming_response.create(
        model="auto", max_tokens=9, messages=ASK, stream=True
    ) as answer:
        same(answer.headers["content-type"].split(";")[0], "text/event-stream")
        assert answer.request_id


def test_beta_headers_are_ignored():
    raw = client.messages.with_raw_response.create(
        model="auto", max_tokens=9, messages=ASK, extra_headers={"anthropic-beta": "made-up-2030-01-01"})
    same(raw.parse().type, "message")
    sent = mock.stats()["recent"][-1]["headers"]
    assert not [name for name in sent if name.startswith("anthropic") or name == "x-api-key"], sent
    message = client.beta.messages.create(model="auto", max_tokens=500, messages=ASK, betas=["made-up-2030-01-01"])
    holds(message.content[0].text, QUESTION)


def test_a_key_may_come_either_way():
    same(create(anthropic.Anthropic(base_url=GATEWAY, api_key=None, auth_token=KEYS["all"])).model, "coder")
    wrong = KEYS["all"].replace("-0123", "-9999")
    for stranger in (anthropic.Anthropic(base_url=GATEWAY, api_key=wrong), make("old")):
        with mock.counted(0), raises(anthropic.AuthenticationError) as error:
            create(stranger)
        same((error.type, error.body["type"]), ("authentication_error", "error"))


def test_errors_are_typed():
    with raises(anthropic.NotFoundError) as error:
        create(model="nobody")
    same((error.type, error.body["error"]["type"]), ("not_found_error", "not_found_error"))
    holds(error.message, "nobody")
    same(error.request_id, error.body["request_id"])
    with raises(anthropic.PermissionDeniedError) as error:
        create(make("routes"), model="coder")
    same(error.type, "permission_error")
    with raises(anthropic.BadRequestError) as error:
        create(messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}])
    same(error.type, "invalid_request_error")
    holds(error.message, "messages[0].content[0]")
    with raises(anthropic.BadRequestError) as error:
        create(messages="hello")
    holds(error.message, "messages")


def test_an_experts_error_keeps_its_status():
    kinds = {400: anthropic.BadRequestError, 401: anthropic.AuthenticationError, 403: anthropic.PermissionDeniedError,
             404: anthropic.NotFoundError, 429: anthropic.RateLimitError, 500: anthropic.InternalServerError,
             503: anthropic.ServiceUnavailableError, 529: anthropic.OverloadedError}
    types = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
             429: "rate_limit_error", 500: "api_error", 503: "overloaded_error", 529: "overloaded_error"}
    for status, kind in kinds.items():
        for stream in (False, True):
            with mock.failing(f"status:{status}"), raises(kind) as error:
                create(stream=stream)
            same((error.status_code, error.type), (status, types[status]))


def test_an_expert_that_fails_is_a_server_error():
    with raises(anthropic.InternalServerError) as error:
        create(model="gone")
    same((error.status_code, error.type), (502, "api_error"))
    with mock.cancelled(), mock.failing("stall"), raises(anthropic.InternalServerError) as error:
        create(model="hasty")
    same((error.status_code, error.type), (504, "timeout_error"))


def test_limits_are_rate_limit_errors():
    few = make("few")
    create(few)
    with mock.counted(0), raises(anthropic.RateLimitError) as error:
        create(few)
    same(error.type, "rate_limit_error")
    assert 1 <= int(error.response.headers["retry-after"]) <= 65, error.response.headers
    transport, sent = counting(anthropic.DefaultHttpxClient)
    with mock.counted(0), raises(anthropic.RateLimitError) as error:
        create(make("poor", max_retries=3, http_client=transport))
    same((error.response.headers["x-should-retry"], len(sent)), ("false", 1))


def test_the_clients_retry_waits_as_long_as_it_is_told():
    with mock.counted(2), mock.failing("status:429,retry-after=1", times=1), lasting(0.99, 20):
        same(create(make(max_retries=2)).model, "coder")


def test_tokens_cannot_be_counted():
    with raises(anthropic.NotFoundError) as error:
        client.messages.count_tokens(model="auto", messages=ASK)
    same((error.type, error.body["error"]["type"]), ("not_found_error", "not_found_error"))
    holds(error.message, "tokenizer")
    assert error.request_id == error.body["request_id"], error.body
    with raises(anthropic.NotFoundError) as error:
        client.messages.batches.list()
    same(error.type, "not_found_error")


def test_models_are_listed():
    same(client.models.retrieve("coder").id, "coder")
    assert "auto" in [model.id for model in client.models.list()]


def test_a_whole_answer_that_breaks_off_is_a_server_error():
    for fault in ("reset-mid", "half-event", "garbage"):
        with mock.failing(fault), raises(anthropic.InternalServerError) as error:
            create()
        same((error.status_code, error.type), (502, "api_error"), fault)


def test_a_stream_that_breaks_off_is_an_error():
    for fault in ("reset-mid", "half-event", "garbage"):
        text = ""
        with mock.failing(fault), raises(anthropic.APIStatusError) as error:
            with client.messages.stream(model="auto", max_tokens=500, messages=ASK) as stream:
                for piece in stream.text_stream:
                    text += piece
        same(error.type, "api_error", fault)
        holds(text, "[mock-expert", "what came before the failure")


def test_a_stream_that_stalls_is_an_error():
    with mock.failing("stall-mid"), raises(anthropic.APIStatusError) as error:
        list(create(model="hasty", stream=True))
    same(error.type, "api_error")


def test_a_client_that_gives_up_cancels_the_experts_work():
    # Once a stream is open, this client passes on what its transport raises.
    with mock.failing("stall-mid"), mock.cancelled(), raises(httpx2.ReadTimeout):
        list(create(stream=True, timeout=0.5))
    with mock.failing("stall"), mock.cancelled(), raises(anthropic.APITimeoutError):
        create(timeout=0.5)
    with mock.failing("stall-mid"), mock.cancelled():
        with create(stream=True) as stream:
            next(iter(stream))


# The same without blocking.


async def test_async_messages_and_streams():
    async with anthropic.AsyncAnthropic(base_url=GATEWAY, api_key=KEYS["all"], max_retries=0) as one:
        whole = await one.messages.create(model="auto", max_tokens=500, messages=ASK)
        async with one.messages.stream(
            model="auto", max_tokens=500, messages=ASK, tools=TOOLS, extra_body={"mock_answer": TWO_CALLS}
        ) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        holds(whole.content[0].text, QUESTION)
        same(text, "Let me look.")
        same([use.input for use in final.content[1:]], [json.loads(WEATHER), json.loads(SEARCH)])
        with raises(anthropic.NotFoundError):
            await one.messages.create(model="nobody", max_tokens=5, messages=ASK)
        answers = await asyncio.gather(*(
            one.messages.create(model="auto", max_tokens=500, messages=[{"role": "user", "content": f"number {n}"}])
            for n in range(10)))
        for n, answer in enumerate(answers):
            holds(answer.content[0].text, f'"number {n}"')


async def test_async_cancellation_reaches_the_expert():
    async with anthropic.AsyncAnthropic(base_url=GATEWAY, api_key=KEYS["all"], max_retries=0) as one:
        async def ask():
            async for _ in await one.messages.create(model="auto", max_tokens=500, messages=ASK, stream=True):
                pass

        with mock.failing("stall-mid"), mock.cancelled():
            task = asyncio.create_task(ask())
            while mock.stats()["in_flight"] == 0:
                await asyncio.sleep(0.005)
            task.cancel()
            with raises(asyncio.CancelledError):
                await task


if __name__ == "__main__":
    main(globals())
