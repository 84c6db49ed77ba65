"""Chat completions, models, embeddings and legacy completions by the official OpenAI client."""

import asyncio
import json
import socket

import openai
from pydantic import BaseModel

from harness import (
    GATEWAY, KEYS, PNG, SEARCH, TWO_CALLS, WEATHER, call_delta, counting, holds, lasting, main, mock, odd_pieces,
    raises, same,
)

ASK = [{"role": "user", "content": "Write a haiku about routers"}]


def tool(name, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("get_weather", city={"type": "string"}), tool("search", query={"type": "string"})]


def make(key="all", **options):
    return openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key=KEYS[key], **{"max_retries": 0} | options)


def make_async(**options):
    return openai.AsyncOpenAI(base_url=f"{GATEWAY}/v1", api_key=KEYS["all"], **{"max_retries": 0} | options)


client = make()


def chat(client=client, **arguments):
    return client.chat.completions.create(**{"model": "auto", "messages": ASK} | arguments)


def dictate(*deltas, **rest):
    return {"mock_answer": {"deltas": list(deltas)} | rest}


# Models.


def test_models_are_listed_routes_first():
    models = client.models.list()
    names = [model.id for model in models]
    same(names[0], "auto")
    assert {"coder", "sturdy"} <= set(names), names
    same({model.object for model in models}, {"model"})


def test_a_model_is_retrieved_or_not_found():
    same(client.models.retrieve("coder").id, "coder")
    with raises(openai.NotFoundError) as error:
        client.models.retrieve("nobody")
    same(error.code, "model_not_found")


# Chats.


def test_a_chat_is_answered():
    answer = chat()
    same((answer.object, answer.model), ("chat.completion", "coder"))
    choice = answer.choices[0]
    holds(choice.message.content, "haiku about routers")
    same((choice.finish_reason, choice.message.role), ("stop", "assistant"))
    usage = answer.usage
    same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)


def test_the_whole_conversation_reaches_the_expert():
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "tell me \u2014 \U0001f600"}]},
        {"role": "assistant", "content": "told"},
        *ASK,
    ]
    chat(messages=messages)
    same(mock.last()["messages"], messages)


def test_parameters_and_unknown_fields_pass_through():
    sent = {"seed": 7, "stop": ["END", "\n"], "temperature": 0.25, "top_p": 0.5, "logit_bias": {"42": -1},
            "user": "u", "service_tier": "default", "metadata": {"a": "b"}, "max_completion_tokens": 99}
    chat(**sent, extra_body={"guided_regex": "a+", "nested": {"model": "kept"}})
    got = mock.last()
    same({name: got[name] for name in sent}, sent)
    same((got["guided_regex"], got["nested"], got["model"]), ("a+", {"model": "kept"}, "coder"))


def test_unknown_fields_of_answers_pass_through():
    message = chat(extra_body=dictate({"content": "x", "reasoning_content": "why"})).choices[0].message
    same((message.content, message.reasoning_content), ("x", "why"))


def test_several_choices_come():
    answer = chat(n=2)
    same([choice.index for choice in answer.choices], [0, 1])
    assert answer.choices[0].message.content != answer.choices[1].message.content
    texts = ["", ""]
    for chunk in chat(n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    same(texts, [choice.message.content for choice in answer.choices])


def test_a_limit_ends_an_answer():
    same(chat(max_tokens=3).choices[0].finish_reason, "length")


def test_logprobs_come():
    tokens = chat(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    same({len(token.top_logprobs) for token in tokens}, {2})


def test_images_reach_the_expert():
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}}
    content = [{"type": "text", "text": "what is this"}, part]
    holds(chat(messages=[{"role": "user", "content": content}]).choices[0].message.content, "1 image(s)")
    same(mock.last()["messages"][0]["content"], content)


# Streams.


def test_a_stream_says_what_a_whole_answer_says():
    chunks = list(chat(stream=True))
    same(chunks[0].choices[0].delta.role, "assistant")
    same("".join(chunk.choices[0].delta.content or "" for chunk in chunks), chat().choices[0].message.content)
    same(chunks[-1].choices[0].finish_reason, "stop")
    same({chunk.id for chunk in chunks}, {chunks[0].id}, "ids")
    same({chunk.model for chunk in chunks}, {"coder"}, "models")
    same({chunk.usage for chunk in chunks}, {None}, "usage that nobody asked for")


def test_usage_is_streamed_when_asked_for():
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    same(chunks[-1].choices, [])
    same(chunks[-1].usage, chat().usage)
    same({chunk.usage for chunk in chunks[:-1]}, {None})


def test_a_stream_has_one_done_at_its_end():
    with client.chat.completions.with_streaming_response.create(model="auto", messages=ASK, stream=True) as answer:
        lines = [line for line in answer.iter_lines() if line]
    same([line for line in lines if line == "data: [DONE]"], ["data: [DONE]"])
    same(lines[-1], "data: [DONE]")
    assert all(line.startswith("data: ") for line in lines), lines


def test_the_stream_helper_puts_the_answer_together():
    with client.chat.completions.stream(model="auto", messages=ASK) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    same((kinds[0], kinds[-1]), ("chunk", "content.done"))
    same(final.choices[0].message.content, chat().choices[0].message.content)


# Tools.


def test_a_tool_is_called():
    choice = chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "search"}}).choices[0]
    same((choice.finish_reason, choice.message.content), ("tool_calls", None))
    call = choice.message.tool_calls[0]
    same((call.type, call.function.name), ("function", "search"))
    same(json.loads(call.function.arguments), {"query": "Write a haiku about routers"})
    same(mock.last()["tools"], TOOLS)


def test_parallel_calls_come_whole():
    message = chat(tools=TOOLS, extra_body={"mock_answer": TWO_CALLS}).choices[0].message
    same([(call.id, call.function.name, call.function.arguments) for call in message.tool_calls],
         [("call_w", "get_weather", WEATHER), ("call_s", "search", SEARCH)])


def test_parallel_calls_are_streamed_piece_by_piece():
    calls, pieces = {}, []
    for chunk in chat(tools=TOOLS, stream=True, extra_body={"mock_answer": TWO_CALLS}):
        for piece in chunk.choices[0].delta.tool_calls or []:
            call = calls.setdefault(piece.index, {"id": piece.id, "name": piece.function.name, "arguments": ""})
            call["arguments"] += piece.function.arguments
            pieces.append(piece.function.arguments)
    same(calls, {0: {"id": "call_w", "name": "get_weather", "arguments": WEATHER},
                 1: {"id": "call_s", "name": "search", "arguments": SEARCH}})
    same(pieces, ["", *odd_pieces(WEATHER), "", *odd_pieces(SEARCH)], "pieces as the expert sent them")


def test_interleaved_calls_are_kept_apart():
    deltas = [call_delta(0, "", id="a", name="get_weather"), call_delta(1, "", id="b", name="search")]
    pairs = zip(odd_pieces('{"city": "x", "more": 1}'), odd_pieces('{"query": "y", "more": 2}'))
    for first, second in pairs:
        deltas += [call_delta(0, first), call_delta(1, second)]
    with client.chat.completions.stream(
        model="auto", messages=ASK, tools=TOOLS, extra_body=dictate(*deltas, finish_reason="tool_calls")
    ) as stream:
        calls = stream.get_final_completion().choices[0].message.tool_calls
    same([call.function.arguments for call in calls], ['{"city": "x", "more": 1}', '{"query": "y", "more": 2}'])


def test_a_tool_loop_comes_to_its_end():
    first = chat(tools=TOOLS, extra_body={"mock_answer": TWO_CALLS}).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"result of {call.id}"}
               for call in first.tool_calls]
    answer = chat(messages=[*ASK, first, *results], tools=TOOLS)
    holds(answer.choices[0].message.content, 'The tool said: "result of call_s"')
    sent = mock.last()["messages"]
    same(sent[1]["tool_calls"][0]["function"], {"name": "get_weather", "arguments": WEATHER})
    same(sent[2:], results)


class Step(BaseModel):
    explanation: str
    output: int


class Solution(BaseModel):
    steps: list[Step]
    answer: str


def test_a_schema_is_followed_and_parsed():
    parsed = client.chat.completions.parse(model="auto", messages=ASK, response_format=Solution)
    solution = parsed.choices[0].message.parsed
    assert isinstance(solution, Solution) and solution.steps[0].output == 1, parsed
    same(mock.last()["response_format"]["json_schema"]["schema"]["required"], ["steps", "answer"])


def test_a_schema_is_parsed_from_a_stream():
    with client.chat.completions.stream(model="auto", messages=ASK, response_format=Solution) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Solution)


def test_tools_with_a_model_are_parsed():
    class Search(BaseModel):
        query: str

    parsed = client.chat.completions.parse(model="auto", messages=ASK, tools=[openai.pydantic_function_tool(Search)])
    same(parsed.choices[0].message.tool_calls[0].function.parsed_arguments, Search(query="Write a haiku about routers"))


# Other endpoints.


def test_embeddings_of_an_expert():
    for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        answer = client.embeddings.create(model="coder", input=["a", "b"], dimensions=8, **options)
        same([item.index for item in answer.data], [0, 1])
    vectors = [client.embeddings.create(model="coder", input="a", **o).data[0].embedding
               for o in ({}, {"encoding_format": "float"})]
    assert max(abs(x - y) for x, y in zip(*vectors)) < 1e-6


def test_embeddings_of_the_routers_own_model():
    own = [model.id for model in client.models.list() if model.owned_by == "guildhall-encoder"]
    same(len(own), 1, "encoders")
    with mock.counted(0):
        answer = client.embeddings.create(model=own[0], input=["a red car", "a red bus", "sort this list"])
        floats = client.embeddings.create(model=own[0], input="a red car", encoding_format="float")
    car, bus, sort = (item.embedding for item in answer.data)
    product = lambda a, b: sum(x * y for x, y in zip(a, b))
    assert abs(product(car, car) - 1) < 1e-3 and product(car, bus) > product(car, sort)
    assert max(abs(x - y) for x, y in zip(car, floats.data[0].embedding)) < 1e-5
    assert answer.usage.prompt_tokens > 0


def test_legacy_completions():
    whole = client.completions.create(model="auto", prompt="once upon a time")
    same(whole.object, "text_completion")
    streamed = client.completions.create(model="auto", prompt="once upon a time", stream=True)
    same("".join(chunk.choices[0].text for chunk in streamed), whole.choices[0].text)


# Headers.


def test_answers_carry_their_headers():
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=ASK, extra_headers={"x-request-id": "req-of-mine"})
    headers = raw.headers
    same((raw.request_id, raw.parse().model), ("req-of-mine", "coder"))
    names = ["route", "policy", "expert", "path", "attempts"]
    same([headers[f"x-guildhall-{name}"] for name in names], ["auto", "static", "coder", "upstream", "1"])
    same(headers["x-ratelimit-limit-requests"], "100000")
    assert int(headers["x-ratelimit-remaining-requests"]) < 100000
    assert int(headers["x-ratelimit-remaining-tokens"]) < 9000000 and headers["x-ratelimit-reset-tokens"], headers


def test_the_request_id_is_on_answers_and_errors():
    assert chat()._request_id.startswith("req-")
    with raises(openai.NotFoundError) as error:
        chat(model="nobody")
    assert error.request_id.startswith("req-"), error.request_id


def test_an_answer_can_be_read_as_it_comes():
    with client.chat.completions.with_streaming_response.create(model="auto", messages=ASK) as answer:
        same(answer.headers["x-guildhall-expert"], "coder")
        same(answer.parse().model, "coder")


def test_an_expert_is_named_by_header():
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=ASK, extra_headers={"x-guildhall-force-expert": "sturdy"})
    same(raw.headers["x-guildhall-expert"], "sturdy")


# Errors.


def test_a_wrong_key_is_an_authentication_error():
    wrong = KEYS["all"].replace("-0123", "-9999")
    for key, part in ((wrong, "not known"), ("sk-other", "not an API key of this gateway"), (KEYS["old"], "expired")):
        stranger = openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key=key, max_retries=2)
        with mock.counted(0), raises(openai.AuthenticationError) as error:
            chat(stranger)
        holds(error.message, part)
        same((error.code, error.type), ("invalid_api_key", "authentication_error"))


def test_an_expert_named_without_permission_is_denied():
    with raises(openai.PermissionDeniedError) as error:
        chat(make("routes"), model="coder")
    same((error.code, error.param), ("forbidden", "model"))
    same(chat(make("routes")).model, "coder")


def test_an_unknown_model_is_not_found():
    with raises(openai.NotFoundError) as error:
        chat(model="nobody")
    same((error.code, error.param), ("model_not_found", "model"))


def test_bad_requests_say_which_field():
    with raises(openai.BadRequestError) as error:
        chat(messages=[])
    same((error.param, error.type), ("messages", "invalid_request_error"))
    with raises(openai.BadRequestError) as error:
        chat(messages="hello")
    same(error.param, "messages")


def test_an_experts_error_keeps_its_status():
    kinds = {400: openai.BadRequestError, 401: openai.AuthenticationError, 403: openai.PermissionDeniedError,
             404: openai.NotFoundError, 409: openai.ConflictError, 422: openai.UnprocessableEntityError,
             500: openai.InternalServerError, 503: openai.InternalServerError}
    for status, kind in kinds.items():
        for stream in (False, True):
            with mock.failing(f"status:{status}"), raises(kind) as error:
                chat(stream=stream)
            same((error.status_code, error.code), (status, "mock_fault"))


def test_an_expert_that_cannot_be_reached_is_a_server_error():
    with raises(openai.InternalServerError) as error:
        chat(model="gone")
    same((error.status_code, error.code), (502, "upstream_failed"))


def test_an_expert_that_says_nothing_is_a_server_error():
    with mock.cancelled(), mock.failing("stall"), raises(openai.InternalServerError) as error:
        chat(model="hasty")
    same((error.status_code, error.code), (504, "upstream_timeout"))


def test_a_reached_limit_is_a_rate_limit_error():
    few = make("few")
    raw = few.chat.completions.with_raw_response.create(model="auto", messages=ASK)
    same(raw.headers["x-ratelimit-remaining-requests"], "0")
    with mock.counted(0), raises(openai.RateLimitError) as error:
        chat(few)
    same((error.code, error.type), ("rate_limit_exceeded", "rate_limit_error"))
    headers = error.response.headers
    assert 1 <= int(headers["retry-after"]) <= 65, headers
    same([headers[f"x-ratelimit-{name}-requests"] for name in ("limit", "remaining")], ["1", "0"])


def test_a_gateway_that_is_not_there_is_a_connection_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = openai.OpenAI(base_url=f"http://127.0.0.1:{free.getsockname()[1]}/v1", api_key="x", max_retries=0)
        with raises(openai.APIConnectionError):
            chat(nowhere)


def test_a_whole_answer_that_breaks_off_is_a_connection_error():
    for fault in ("reset-mid", "half-event"):
        with mock.failing(fault), raises(openai.APIConnectionError):
            chat()


def test_a_stream_that_breaks_off_is_an_error():
    for fault in ("reset-mid", "half-event"):
        text = ""
        with mock.failing(fault), raises(openai.APIError) as error:
            for chunk in chat(stream=True):
                text += chunk.choices[0].delta.content or ""
        holds(text, "[mock-expert", "what came before the failure")
        same(error.code, "upstream_stream_failed", fault)


def test_a_stream_that_stalls_is_an_error():
    with mock.failing("stall-mid"), raises(openai.APIError) as error:
        list(chat(model="hasty", stream=True))
    same(error.code, "upstream_stream_failed")


# Retries and time-outs.


def make_counting(key="all", **options):
    """A client and the list of its requests."""
    transport, sent = counting(openai.DefaultHttpxClient)
    return make(key, http_client=transport, **options), sent


def test_the_clients_retry_waits_as_long_as_it_is_told():
    with mock.counted(2), mock.failing("status:429,retry-after=1", times=1), lasting(0.99, 20):
        same(chat(make(max_retries=2)).model, "coder")


def test_the_clients_retries_come_to_an_end():
    patient = make(max_retries=1)
    with mock.counted(2), mock.failing("status:503"), raises(openai.InternalServerError):
        chat(patient)


def test_a_spent_budget_is_not_retried():
    poor, sent = make_counting("poor", max_retries=3)
    with mock.counted(0), raises(openai.RateLimitError) as error:
        chat(poor)
    same((error.code, error.type), ("budget_exceeded", "insufficient_quota"))
    same((error.response.headers["x-should-retry"], len(sent)), ("false", 1))


def test_a_broken_connection_is_retried():
    retrying, sent = make_counting(max_retries=1)
    with mock.counted(2), mock.failing("reset-mid", times=1):
        same(chat(retrying).model, "coder")
    same(len(sent), 2)


def test_the_gateways_own_retries_stay_its_own():
    once, sent = make_counting()
    with mock.counted(3), mock.failing("status:503", times=2):
        raw = once.chat.completions.with_raw_response.create(model="sturdy", messages=ASK)
    same((len(sent), raw.headers["x-guildhall-attempts"]), (1, "3"))


def test_a_client_that_gives_up_cancels_the_experts_work():
    with mock.failing("stall"):
        with mock.cancelled(), raises(openai.APITimeoutError):
            chat(timeout=0.5)
    with mock.failing("stall-mid"):
        with mock.cancelled(), raises(openai.APITimeoutError):
            list(chat(stream=True, timeout=0.5))


def test_a_stream_left_early_is_cancelled():
    with mock.failing("stall-mid"), mock.cancelled():
        with chat(stream=True) as stream:
            next(iter(stream))


# The same without blocking.


async def test_async_chats_run_side_by_side():
    async with make_async() as many:
        answers = await asyncio.gather(*(
            many.chat.completions.create(model="auto", messages=[{"role": "user", "content": f"number {n}"}])
            for n in range(20)))
    for n, answer in enumerate(answers):
        holds(answer.choices[0].message.content, f'"number {n}"')


async def test_async_streams_say_what_whole_answers_say():
    async with make_async() as one:
        stream = await one.chat.completions.create(model="auto", messages=ASK, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    same(text, chat().choices[0].message.content)


async def test_async_tools_are_streamed():
    async with make_async() as one:
        async with one.chat.completions.stream(
            model="auto", messages=ASK, tools=TOOLS, extra_body={"mock_answer": TWO_CALLS}
        ) as stream:
            calls = (await stream.get_final_completion()).choices[0].message.tool_calls
    same([call.function.arguments for call in calls], [WEATHER, SEARCH])


async def test_async_cancellation_reaches_the_expert():
    async with make_async() as one:
        for fault, stream in (("stall", False), ("stall-mid", True)):
            async def ask():
                answer = await one.chat.completions.create(model="auto", messages=ASK, stream=stream)
                async for _ in answer:
                    pass

            with mock.failing(fault), mock.cancelled():
                task = asyncio.create_task(ask())
                while mock.stats()["in_flight"] == 0:
                    await asyncio.sleep(0.005)
                task.cancel()
                with raises(asyncio.CancelledError):
                    await task


async def test_async_errors_are_typed():
    async with make_async() as one:
        with raises(openai.NotFoundError):
            await one.chat.completions.create(model="nobody", messages=ASK)
        with mock.failing("reset-mid"), raises(openai.APIError) as error:
            async for _ in await one.chat.completions.create(model="auto", messages=ASK, stream=True):
                pass
    same(error.code, "upstream_stream_failed")


if __name__ == "__main__":
    main(globals())
