"""The Responses API by the official OpenAI client; experts speak chat completions only."""

import asyncio
import json

import openai
from pydantic import BaseModel

from harness import (
    GATEWAY, KEYS, PNG, SEARCH, TWO_CALLS, WEATHER, holds, lasting, main, mock, odd_pieces, raises, same,
)

ASK = "Write a haiku about routers"


def tool(name, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "name": name, "parameters": parameters, "strict": False}


TOOLS = [tool("get_weather", city={"type": "string"}), tool("search", query={"type": "string"})]


def make(key="all", **options):
    return openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key=KEYS[key], **{"max_retries": 0} | options)


client = make()


def create(client=client, **arguments):
    return client.responses.create(**{"model": "auto", "input": ASK} | arguments)


def dictate(*deltas, **rest):
    return {"mock_answer": {"deltas": list(deltas)} | rest}


def without_ids(response):
    """What two answers to the same request have in common."""
    content = response.to_dict()
    for name in ("id", "created_at", "completed_at"):
        content.pop(name, None)
    for item in content["output"]:
        item.pop("id")
        # The client's stream helper adds these.
        item.pop("parsed_arguments", None)
        for part in item.get("content", []):
            part.pop("parsed", None)
    return content


def streamed(**arguments):
    """The events of a stream and its helper's final response."""
    with client.responses.stream(**{"model": "auto", "input": ASK} | arguments) as stream:
        events = list(stream)
        return events, stream.get_final_response()


# Whole answers.


def test_a_response_is_created():
    answer = create()
    same((answer.object, answer.status, answer.model), ("response", "completed", "coder"))
    assert answer.id.startswith("resp_"), answer.id
    holds(answer.output_text, "haiku about routers")
    usage = answer.usage
    same(usage.total_tokens, usage.input_tokens + usage.output_tokens)
    assert usage.output_tokens > 0 and answer.error is None and answer.store is False


def test_instructions_and_items_reach_the_expert():
    create(instructions="be brief", input=[
        {"role": "developer", "content": "in English"},
        {"role": "user", "content": [{"type": "input_text", "text": "hello \U0001f600"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi", "annotations": []}]},
        {"role": "user", "content": ASK},
    ])
    messages = mock.last()["messages"]
    same([message["role"] for message in messages], ["system", "user", "assistant", "user"])
    holds(json.dumps(messages[0]), "be brief")
    holds(json.dumps(messages[0]), "in English")
    same(messages[-1]["content"], ASK)


def test_parameters_become_those_of_chat_completions():
    answer = create(max_output_tokens=99, temperature=0.25, reasoning={"effort": "low"}, metadata={"a": "b"},
                    user="u", text={"verbosity": "low"}, extra_body={"guided_regex": "a+"})
    got = mock.last()
    same({name: got[name] for name in ("max_tokens", "temperature", "reasoning_effort", "user", "verbosity")},
         {"max_tokens": 99, "temperature": 0.25, "reasoning_effort": "low", "user": "u", "verbosity": "low"})
    same((got["guided_regex"], got["model"]), ("a+", "coder"))
    same((answer.max_output_tokens, answer.temperature, answer.metadata), (99, 0.25, {"a": "b"}))


def test_a_limit_makes_a_response_incomplete():
    answer = create(max_output_tokens=3)
    same((answer.status, answer.incomplete_details.reason), ("incomplete", "max_output_tokens"))
    events = list(create(max_output_tokens=3, stream=True))
    same(events[-1].type, "response.incomplete")
    same(without_ids(events[-1].response), without_ids(answer))


def test_logprobs_come():
    answer = create(include=["message.output_text.logprobs"], top_logprobs=2)
    tokens = answer.output[0].content[0].logprobs
    same("".join(token.token for token in tokens), answer.output_text)
    same({len(token.top_logprobs) for token in tokens}, {2})


def test_images_reach_the_expert():
    url = f"data:image/png;base64,{PNG}"
    answer = create(input=[{"role": "user", "content": [
        {"type": "input_text", "text": "what is this"}, {"type": "input_image", "image_url": url, "detail": "low"}]}])
    holds(answer.output_text, "1 image(s)")
    same(mock.last()["messages"][0]["content"][1]["image_url"], {"url": url, "detail": "low"})


def test_usage_tells_cached_and_reasoning_tokens():
    usage = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29,
             "prompt_tokens_details": {"cached_tokens": 16}, "completion_tokens_details": {"reasoning_tokens": 4}}
    got = create(extra_body=dictate({"content": "x"}, usage=usage)).usage
    same((got.input_tokens, got.input_tokens_details.cached_tokens), (20, 16))
    same((got.output_tokens, got.output_tokens_details.reasoning_tokens, got.total_tokens), (9, 4, 29))


def test_a_refusal_is_one():
    deltas = dictate({"refusal": "I will "}, {"refusal": "not."})
    answer = create(extra_body=deltas)
    same((answer.output[0].content[0].type, answer.output[0].content[0].refusal), ("refusal", "I will not."))
    events, final = streamed(extra_body=deltas)
    same("".join(event.delta for event in events if event.type == "response.refusal.delta"), "I will not.")
    same(without_ids(final), without_ids(answer))


# Streams.


def test_a_text_streams_its_events_in_order():
    events, final = streamed()
    kinds = [event.type for event in events]
    around = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    same(kinds[:4], around)
    same(kinds[-4:], ["response.output_text.done", "response.content_part.done", "response.output_item.done",
                      "response.completed"])
    same(set(kinds[4:-4]), {"response.output_text.delta"})
    same([event.sequence_number for event in events], list(range(len(events))), "sequence numbers")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    same((text, final.output_text), (create().output_text,) * 2)
    same({event.response.id for event in events if event.type.startswith("response.c") and hasattr(event, "response")},
         {final.id}, "ids")


def test_a_streams_final_response_is_the_whole_one():
    _, final = streamed(instructions="be brief", metadata={"a": "b"}, temperature=0.5)
    whole = create(instructions="be brief", metadata={"a": "b"}, temperature=0.5)
    same(without_ids(final), without_ids(whole))


def test_plain_streams_need_no_helper():
    kinds = [event.type for event in create(stream=True)]
    same((kinds[0], kinds[-1]), ("response.created", "response.completed"))


# Tools.


def test_a_function_is_called_and_its_output_taken():
    answer = create(tools=TOOLS, tool_choice={"type": "function", "name": "search"})
    call = answer.output[0]
    same((call.type, call.name, call.status), ("function_call", "search", "completed"))
    same(json.loads(call.arguments), {"query": ASK})
    same(mock.last()["tools"][1]["function"]["name"], "search")
    after = create(tools=TOOLS, input=[
        {"role": "user", "content": ASK}, *answer.output,
        {"type": "function_call_output", "call_id": call.call_id, "output": "42 results"},
    ])
    holds(after.output_text, 'The tool said: "42 results"')
    sent = mock.last()["messages"]
    same([message["role"] for message in sent], ["user", "assistant", "tool"])
    same((sent[1]["tool_calls"][0]["id"], sent[2]["tool_call_id"]), (call.call_id, call.call_id))
    same(sent[1]["tool_calls"][0]["function"], {"name": "search", "arguments": call.arguments})


def test_parallel_calls_come_whole():
    answer = create(tools=TOOLS, parallel_tool_calls=True, extra_body={"mock_answer": TWO_CALLS})
    same([item.type for item in answer.output], ["message", "function_call", "function_call"])
    same([(item.call_id, item.name, item.arguments) for item in answer.output[1:]],
         [("call_w", "get_weather", WEATHER), ("call_s", "search", SEARCH)])


def test_parallel_calls_are_streamed_piece_by_piece():
    events, final = streamed(tools=TOOLS, extra_body={"mock_answer": TWO_CALLS})
    pieces = {}
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            pieces.setdefault(event.output_index, []).append(event.delta)
    same(pieces, {1: odd_pieces(WEATHER), 2: odd_pieces(SEARCH)})
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    same([(event.output_index, event.arguments) for event in done], [(1, WEATHER), (2, SEARCH)])
    same([item.arguments for item in final.output[1:]], [WEATHER, SEARCH])
    same(without_ids(final), without_ids(create(tools=TOOLS, extra_body={"mock_answer": TWO_CALLS})))


def test_custom_tools_get_their_free_text():
    custom = {"type": "custom", "name": "run", "description": "runs code"}
    call = {"tool_calls": [{"index": 0, "id": "c", "type": "function",
                            "function": {"name": "run", "arguments": '{"input": "print(\\"x\\")"}'}}]}
    answer = create(tools=[custom], extra_body=dictate(call, finish_reason="tool_calls"))
    same((answer.output[0].type, answer.output[0].input), ("custom_tool_call", 'print("x")'))


def test_hosted_tools_are_reported_as_left_out():
    raw = client.responses.with_raw_response.create(
        model="auto", input=ASK, tools=[{"type": "web_search"}], store=True, truncation="auto")
    lossy = raw.headers["x-guildhall-lossy"]
    for path in ("tools[web_search]", "store", "truncation"):
        holds(lossy, path, "x-guildhall-lossy")
    same(raw.parse().status, "completed")
    plain = client.responses.with_raw_response.create(model="auto", input=ASK)
    assert "x-guildhall-lossy" not in plain.headers, plain.headers


# Structured output.


class Step(BaseModel):
    explanation: str
    output: int


class Solution(BaseModel):
    steps: list[Step]
    answer: str


def test_a_schema_is_followed_and_parsed():
    solution = client.responses.parse(model="auto", input=ASK, text_format=Solution).output_parsed
    assert isinstance(solution, Solution) and solution.steps[0].output == 1, solution
    same(mock.last()["response_format"]["json_schema"]["name"], "Solution")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer = create(text={"format": {"type": "json_schema", "name": "n", "schema": schema}})
    same(json.loads(answer.output_text), {"n": 1})


def test_a_schema_is_parsed_from_a_stream():
    _, final = streamed(text_format=Solution)
    assert isinstance(final.output_parsed, Solution), final


# Reasoning.


def reasoned():
    return dictate({"reasoning_content": "Let me "}, {"reasoning_content": "think."}, {"content": "Done."})


def test_reasoning_is_an_item_of_its_own():
    answer = create(extra_body=reasoned())
    same([item.type for item in answer.output], ["reasoning", "message"])
    same((answer.output[0].content[0].text, answer.output_text), ("Let me think.", "Done."))
    asked = create(reasoning={"summary": "auto"}, extra_body=reasoned())
    same(asked.output[0].summary[0].text, "Let me think.")


def test_reasoning_is_streamed():
    events, final = streamed(extra_body=reasoned())
    same([event.delta for event in events if event.type == "response.reasoning_text.delta"], ["Let me ", "think."])
    same(without_ids(final), without_ids(create(extra_body=reasoned())))
    events, final = streamed(reasoning={"summary": "auto"}, extra_body=reasoned())
    same("".join(e.delta for e in events if e.type == "response.reasoning_summary_text.delta"), "Let me think.")
    same(final.output[0].summary[0].text, "Let me think.")


def test_reasoning_goes_back_inside_a_tool_loop():
    call = {"tool_calls": [{"index": 0, "id": "c", "type": "function",
                            "function": {"name": "search", "arguments": '{"query": "x"}'}}]}
    first = create(tools=TOOLS, extra_body=dictate({"reasoning_content": "I should search."}, call))
    create(tools=TOOLS, input=[{"role": "user", "content": ASK}, *first.output,
                               {"type": "function_call_output", "call_id": "c", "output": "found"}])
    same(mock.last()["messages"][1]["reasoning_content"], "I should search.")


# Headers and errors.


def test_answers_carry_their_headers():
    raw = client.responses.with_raw_response.create(model="auto", input=ASK, extra_headers={"x-request-id": "mine"})
    same((raw.request_id, raw.headers["x-guildhall-expert"]), ("mine", "coder"))
    same(raw.headers["x-ratelimit-limit-requests"], "100000")
    with client.responses.with_streaming_response.create(model="auto", input=ASK, stream=True) as answer:
        same(answer.headers["content-type"].split(";")[0], "text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith(("event: ", "data: ")) for line in lines), lines
    same(lines[-2], "event: response.completed")


def test_stored_state_is_refused_with_the_field():
    refused = {"previous_response_id": "resp_1", "conversation": "conv_1", "background": True,
               "prompt": {"id": "pmpt_1"}}
    for name, value in refused.items():
        with mock.counted(0), raises(openai.BadRequestError) as error:
            create(**{name: value})
        same((error.param, error.type), (name, "invalid_request_error"))
    with raises(openai.BadRequestError) as error:
        create(input=[{"type": "item_reference", "id": "msg_1"}])
    holds(error.param, "input[0]", "param")


def test_responses_cannot_be_fetched_later():
    with raises(openai.NotFoundError) as error:
        client.responses.retrieve("resp_1")
    same(error.code, "unknown_url")
    assert error.request_id.startswith("req-"), error.request_id


def test_errors_are_typed():
    with raises(openai.NotFoundError) as error:
        create(model="nobody")
    same(error.code, "model_not_found")
    with raises(openai.AuthenticationError):
        create(make("old"))
    with raises(openai.PermissionDeniedError):
        create(make("routes"), model="coder")
    with raises(openai.BadRequestError) as error:
        create(input=[{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}])
    holds(error.param, "input[0].content[0]", "param")
    kinds = {400: openai.BadRequestError, 429: openai.RateLimitError, 500: openai.InternalServerError}
    for status, kind in kinds.items():
        for stream in (False, True):
            with mock.failing(f"status:{status}"), raises(kind) as error:
                create(stream=stream)
            same(error.code, "mock_fault")


def test_the_clients_retry_waits_as_long_as_it_is_told():
    with mock.counted(2), mock.failing("status:429,retry-after=1", times=1), lasting(0.99, 20):
        same(create(make(max_retries=2)).status, "completed")


def test_a_whole_answer_that_breaks_off_is_a_server_error():
    for fault in ("reset-mid", "half-event", "garbage"):
        with mock.failing(fault), raises(openai.InternalServerError) as error:
            create()
        same((error.status_code, error.code), (502, "upstream_failed"), fault)


def test_a_stream_that_breaks_off_ends_as_failed():
    for fault in ("reset-mid", "half-event", "garbage"):
        with mock.failing(fault):
            events = list(create(stream=True))
        same(events[-1].type, "response.failed", fault)
        response = events[-1].response
        same((response.status, response.error.code), ("failed", "server_error"))
        holds(response.output_text, "[mock-expert", "what came before the failure")


def test_a_stream_that_stalls_ends_as_failed():
    with mock.failing("stall-mid"):
        events = list(create(model="hasty", stream=True))
    same(events[-1].type, "response.failed")


def test_a_client_that_gives_up_cancels_the_experts_work():
    with mock.failing("stall-mid"), mock.cancelled(), raises(openai.APITimeoutError):
        list(create(stream=True, timeout=0.5))
    with mock.failing("stall"), mock.cancelled(), raises(openai.APITimeoutError):
        create(timeout=0.5)


# The same without blocking.


async def test_async_responses_and_streams():
    async with openai.AsyncOpenAI(base_url=f"{GATEWAY}/v1", api_key=KEYS["all"], max_retries=0) as one:
        whole = await one.responses.create(model="auto", input=ASK)
        async with one.responses.stream(model="auto", input=ASK) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        same(without_ids(final), without_ids(whole))
        same((kinds[0], kinds[-1]), ("response.created", "response.completed"))
        with raises(openai.NotFoundError):
            await one.responses.create(model="nobody", input=ASK)


async def test_async_cancellation_reaches_the_expert():
    async with openai.AsyncOpenAI(base_url=f"{GATEWAY}/v1", api_key=KEYS["all"], max_retries=0) as one:
        async def ask():
            async for _ in await one.responses.create(model="auto", input=ASK, stream=True):
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
