"""The engine against transformers' own generate, and against itself in other company."""

import shutil
import time
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from models.batching import BucketTable
from models.config import GenerationConfig, ModelConfig, ModelError, NotANumberError, PromptTooLongError
from models.engine import Engine, Frame, Request
from models.load import SERVED, LoadedModel, load
from models.prompts import SUMMARY_SEPARATOR

from .conftest import (
    ARCHITECTURES,
    END,
    NEEDS_CPP,
    VOCABULARY,
    check_any_company,
    code_prompts,
    number_prompts,
)

LIMIT = 12
NO_STOP = GenerationConfig(stop=())


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and lose much of it where others use the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def table(prefix=0, rows=16):
    """Make a table of few rows, so that slots are refilled and groups have dummies even in a short test."""
    return BucketTable((8, 16, 32, 64, 128), (64 + prefix, 128 + prefix, 192 + prefix), rows, prefix)


def requests(prompts, limit=LIMIT):
    """Ask for texts of up to `limit` tokens, of many lengths, so that slots fall free one by one."""
    return [
        Request(str(number), prompt, (Frame("", 1 + limit * (number % 5 + 1) // 5),))
        for number, prompt in enumerate(prompts)
    ]


def stock_tokens(model, tokens, limit):
    """Return what stock generate writes after `tokens`, and the margin of its choice at each step."""
    out = model.generate(
        torch.tensor([tokens]),
        attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
        max_new_tokens=limit,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.cat(out.logits).float().topk(2).values
    return out.sequences[0, len(tokens) :].tolist(), (best[:, 0] - best[:, 1]).tolist()


def agrees(mine, theirs, margins):
    """Tell whether two texts agree; None where stock's own choice was a toss-up at the first difference."""
    for step, margin in enumerate(margins):
        if mine[step : step + 1] != theirs[step : step + 1]:
            return None if margin <= 1e-4 else False
    return mine == theirs


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder for compiled passes, where there is a compiler (test_compiled.py tells if there is none)."""
    return tmp_path_factory.mktemp("compiled") if shutil.which("g++") else None


def check_against_stock(folder, loaded, prompts, prefix="", compiled=None):
    """Compare an engine with stock generate, and one with compiled passes if there is a folder for them."""
    engines = [Engine(loaded, NO_STOP, prefix=prefix, buckets=table(len(prefix.split())))]
    if compiled:
        engines.append(Engine(loaded, NO_STOP, prefix=prefix, compiled=compiled))
    asked = requests(prompts)
    answers = [engine.generate_all(asked) for engine in engines]
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    verdicts = [[] for _ in engines]
    for request, *completions in zip(asked, *answers, strict=True):
        tokens = [int(word) for word in f"{prefix} {request.prompt}".split()]
        theirs, margins = stock_tokens(stock, tokens, request.frames[0].limit)
        for completion, so_far in zip(completions, verdicts, strict=True):
            mine = [int(word) for word in completion.texts[0].split()] + [END] * completion.ended[0]
            assert completion.output_tokens == len(mine)
            so_far.append(agrees(mine, theirs, margins))
    for of_engine in verdicts:
        assert False not in of_engine
        assert of_engine.count(None) <= len(prompts) // 50
    return answers[0]


def assert_varied(completions):
    words = [word for completion in completions for word in completion.texts[0].split()]
    assert len(set(words)) > VOCABULARY / 8
    assert len({completion.texts for completion in completions}) > len(completions) * 0.9


def test_every_served_architecture_is_tested():
    assert set(ARCHITECTURES) == SERVED


# Rotary and grouped queries; learned positions, a tied head and all heads of their own; a sliding window; a
# parallel residual; tied with heads of another size; norms behind the projections.
WIDELY_TESTED = ["llama", "gpt2", "mistral", "gpt_neox", "gemma", "olmo2"]


@pytest.mark.parametrize("architecture", WIDELY_TESTED)
def test_1000_prompts_equal_stock_generate(saved, loaded, architecture, compiled):
    completions = check_against_stock(
        saved(architecture), loaded(architecture), number_prompts(1000), compiled=compiled
    )
    assert_varied(completions)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_equals_stock_generate_with_a_prefix(saved, loaded, architecture, compiled):
    compiled = None if architecture in WIDELY_TESTED else compiled  # which the test above has done
    prefix = "7 8 9 10 11"
    completions = check_against_stock(
        saved(architecture), loaded(architecture), number_prompts(50), prefix, compiled
    )
    assert_varied(completions)


def frames(*parts):
    return tuple(Frame(text, limit) for text, limit in parts)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_forced_frames_equal_stock_continuing_the_same_tokens(saved, loaded, architecture, compiled):
    stock = AutoModelForCausalLM.from_pretrained(saved(architecture), dtype=torch.float32)
    slots = frames(("100 101", 5), ("200", 5), ("300 301 302", 5))
    asked = [Request(str(n), prompt, slots) for n, prompt in enumerate(number_prompts(40))]
    for folder in [None, compiled] if compiled else [None]:
        answers = Engine(loaded(architecture), NO_STOP, compiled=folder).generate_all(asked)
        assert agreed_frames(stock, slots, asked, answers) >= 40 * 3 - 3


def agreed_frames(stock, slots, asked, answers):
    """Count the frames that are as stock generate continues what is before them; none may differ."""
    agreed = 0
    for request, completion in zip(asked, answers, strict=True):
        tokens = [int(word) for word in request.prompt.split()]
        for frame, text, ended in zip(slots, completion.texts, completion.ended, strict=True):
            tokens += [int(word) for word in frame.text.split()]
            theirs, margins = stock_tokens(stock, tokens, frame.limit)
            mine = [int(word) for word in text.split()]
            verdict = agrees(mine + [END] * ended, theirs, margins)
            assert verdict is not False
            if verdict is None:
                break
            agreed += 1
            tokens += mine
    return agreed


@pytest.mark.parametrize(
    ("architecture", "dtype", "threads"),
    [
        ("llama", "float32", 1),
        ("llama", "bfloat16", 2),
        ("llama", "float32", 3),
        ("gemma3_text", "bfloat16", 1),
        ("gemma3_text", "float32", 3),
    ],
)
def test_a_text_is_the_same_bit_for_bit_in_any_company(loaded, architecture, dtype, threads):
    # Three threads split tensors unevenly; without models.activations this fails there, in float32.
    torch.set_num_threads(threads)
    engine = Engine(loaded(architecture, "code", dtype, intermediate_size=200), prefix="def f(x):\n")
    slots = [frames(("", 16)), frames(("x: ", 6), ("y: ", 6)), frames(("Returns", 3))]
    asked = [Request(str(n), prompt, slots[n % 3]) for n, prompt in enumerate(code_prompts(120))]
    check_any_company(engine, asked)


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=NEEDS_CPP)])
def test_the_bundled_model_writes_the_same_in_any_company(compiled, is_compiled):
    # As it is shipped, in the type that is the default here: tiny models meet few of the kernels it does.
    torch.set_num_threads(2)
    loaded = load(ModelConfig(device="cpu"), lambda *_: is_compiled)
    engine = Engine(loaded, NO_STOP, compiled=compiled if is_compiled else None)
    slots = frames((SUMMARY_SEPARATOR, 20)), frames((SUMMARY_SEPARATOR, 9))
    asked = [Request(str(n), prompt, slots[n % 2]) for n, prompt in enumerate(code_prompts(90, longest=400))]
    check_any_company(engine, asked)


def test_tables_of_different_rows_are_different_profiles(loaded):
    few, many = (Engine(loaded(), buckets=table(rows=rows)).profile for rows in (16, 32))
    assert few.as_key() != many.as_key()
    assert few.as_key() == Engine(loaded(), buckets=table(rows=16)).profile.as_key()


def test_a_request_may_wait_for_an_earlier_completion(loaded):
    engine = Engine(loaded(), NO_STOP, buckets=table())
    done = {}

    def chain():
        for number in range(6):
            prompt = "5 6 7" if number == 0 else None
            while prompt is None:
                prompt = done[number - 1].texts[0] + " 9" if number - 1 in done else None
                if prompt is None:
                    yield None
            yield Request(str(number), prompt, frames(("", 6)))

    for completion in engine.generate(chain()):
        done[int(completion.id)] = completion
    assert sorted(done) == list(range(6))
    alone = Request("5", done[4].texts[0] + " 9", frames(("", 6)))
    assert engine.generate_all([alone]) == [done[5]]


def test_a_stream_that_waits_for_nothing_is_an_error(loaded):
    engine = Engine(loaded(), buckets=table())
    with pytest.raises(ModelError, match="waits for completions"):
        list(engine.generate([None]))
    assert len(engine.generate_all(requests(["1 2 3"]))) == 1


def test_requests_are_taken_in_lazily(loaded, monkeypatch):
    monkeypatch.setattr("models.engine._LOOK_AHEAD", 20)
    taken = []
    stream = (taken.append(request) or request for request in requests(number_prompts(60)))
    finished = [len(taken) for _ in Engine(loaded(), NO_STOP, buckets=table()).generate(stream)]
    assert len(finished) == 60
    assert all(ahead - done <= 20 for done, ahead in enumerate(finished))


def test_only_one_stream_at_a_time_and_an_abandoned_one_harms_nothing(loaded):
    engine = Engine(loaded(), NO_STOP, buckets=table())
    expected = engine.generate_all(requests(number_prompts(30)))
    running = engine.generate(requests(number_prompts(30, seed=1)))
    next(running)
    with pytest.raises(ModelError, match="another stream"):
        engine.generate_all(requests(["1"]))
    running.close()
    assert engine.generate_all(requests(number_prompts(30))) == expected


def test_a_prompt_beyond_the_largest_bucket_names_the_request_and_the_lengths(loaded):
    engine = Engine(loaded(), NO_STOP, buckets=table())
    long = Request("pkg/a.py::f", " ".join(["7"] * 130), frames(("", 4)))
    with pytest.raises(PromptTooLongError, match=r"'pkg/a.py::f' has 130 prompt tokens.* 129"):
        engine.generate_all([long])
    fitting = replace(long, prompt=" ".join(["7"] * 129))
    assert engine.count_tokens(fitting.prompt) == 129
    assert engine.generate_all([fitting])[0].prompt_tokens == 129


def test_an_empty_request_is_an_error_and_a_prefix_makes_it_none(loaded):
    empty = Request("e", "", frames(("", 4)))
    with pytest.raises(ModelError, match="'e' is empty"):
        Engine(loaded(), buckets=table()).generate_all([empty])
    framed = Request("e", "", frames(("5", 4)))
    assert Engine(loaded(), buckets=table()).generate_all([framed])[0].prompt_tokens == 1


def test_what_is_no_number_ends_a_stream_by_the_name_of_its_request(loaded, compiled):
    model = loaded()
    model.model.get_input_embeddings().weight.data[77] = float("nan")
    asked = [Request("good", "5 6", frames(("", 1))), Request("bad", "5 77", frames(("8", 4), ("9", 4)))]
    engines = [Engine(model, NO_STOP, buckets=table())]
    if compiled:
        engines.append(Engine(model, NO_STOP, compiled=compiled))
    for engine in engines:
        assert engine.generate_all(asked[:1])[0].output_tokens == 1
        with pytest.raises(NotANumberError, match="'bad' is no number"):
            engine.generate_all(asked)


def test_a_prefix_that_the_table_is_not_for_is_an_error(loaded):
    with pytest.raises(ModelError, match="a prefix of 2 tokens, but this one has 3"):
        Engine(loaded(), prefix="1 2 3", buckets=table(prefix=2))
    with pytest.raises(ModelError, match="prefix of 300 tokens is too long"):
        Engine(loaded(), prefix=" ".join(["7"] * 300))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Frame("", 0),
        lambda: Request("r", "p", ()),
        lambda: Request("r", "p", frames(("", 1), ("", 1))),
    ],
)
def test_requests_validate_themselves(wrong):
    with pytest.raises(ValueError):
        wrong()


def check_stops(loaded, asked, free, stops):
    """Return how many texts `stops` cut; each ends before the first of them."""
    engine = Engine(loaded("llama", "code"), GenerationConfig(stop=stops), buckets=table())
    stopped, cut = engine.generate_all(asked), 0
    for whole, short in zip(free, stopped, strict=True):
        places = [place for place in map(whole.texts[0].find, stops) if place >= 0]
        expected = whole.texts[0][: min(places)].rstrip("\ufffd") if places else whole.texts[0]
        assert short.texts[0] == expected
        assert short.ended[0] is (bool(places) or whole.ended[0])
        cut += bool(places)
    return cut


@pytest.fixture
def asked_and_free(loaded):
    """Give requests, and what is written for them where nothing stops a text."""
    asked = requests(code_prompts(100), limit=24)
    return asked, Engine(loaded("llama", "code"), NO_STOP, buckets=table()).generate_all(asked)


def test_a_text_ends_before_the_first_stop_string(loaded, asked_and_free):
    assert 20 < check_stops(loaded, *asked_and_free, ("er", "\n", "s")) < 100


def test_a_text_ends_before_a_stop_whose_bytes_are_several_tokens(loaded, asked_and_free, code):
    texts = "".join(completion.texts[0] for completion in asked_and_free[1])
    stops = {
        char for char in texts if not char.isascii() and char != "\ufffd" and len(code.tokenize(char)) > 1
    }
    assert 5 < check_stops(loaded, *asked_and_free, tuple(sorted(stops))) < 100


def test_no_text_ends_inside_a_character(loaded):
    completions = Engine(loaded("llama", "code"), NO_STOP, buckets=table()).generate_all(
        requests(code_prompts(150), limit=5)
    )
    assert any(
        "\ufffd" in completion.texts[0] for completion in completions
    )  # the model does write such bytes
    assert not any(completion.texts[0].endswith("\ufffd") for completion in completions)


def test_log_probabilities_are_the_models(saved, loaded):
    prompts = number_prompts(20)
    completions = Engine(loaded(), NO_STOP, buckets=table()).generate_all(requests(prompts))
    stock = AutoModelForCausalLM.from_pretrained(saved(), dtype=torch.float32)
    for prompt, completion in zip(prompts, completions, strict=True):
        fed = [int(word) for word in f"{prompt} {completion.texts[0]}".split()] + [END] * completion.ended[0]
        with torch.no_grad():
            scores = stock(torch.tensor([fed])).logits[0].log_softmax(-1)
        free = range(len(fed) - completion.output_tokens, len(fed))
        expected = sum(scores[at - 1, fed[at]].item() for at in free) / len(free)
        assert completion.logprobs[0] == pytest.approx(expected, abs=1e-4)


def test_special_tokens_of_a_prompt_are_only_text(loaded):
    model = loaded("llama", "code")
    special = model.tokenizer.convert_tokens_to_ids("<|turn|>")
    assert model.encode("a<|turn|>b", trusted=True).count(special) == 1
    assert special not in model.encode("a<|turn|>b", trusted=False)
    engine = Engine(model, NO_STOP, buckets=table())
    plain, framed = engine.generate_all(
        [Request("p", "a<|turn|>", frames(("", 4))), Request("f", "a", frames(("<|turn|>", 4)))]
    )
    assert (plain.prompt_tokens, framed.prompt_tokens) == (len(model.encode("a<|turn|>", trusted=False)), 2)


def test_seconds_are_all_of_the_engines_and_none_of_its_callers(loaded, monkeypatch):
    encode, moment, texts = LoadedModel.encode, 0.01, 20

    def encode_slowly(self, text, *, trusted):
        time.sleep(moment)
        return encode(self, text, trusted=trusted)

    def asked():
        for request in requests(number_prompts(texts)):
            time.sleep(moment)
            yield request

    engine = Engine(loaded(), NO_STOP, buckets=table())
    monkeypatch.setattr(LoadedModel, "encode", encode_slowly)
    started = time.perf_counter()
    for _ in engine.generate(asked()):
        time.sleep(moment)
    elapsed = time.perf_counter() - started
    assert engine.stats.prefill_seconds >= texts * moment
    assert elapsed - engine.stats.seconds >= 2 * texts * moment


def test_statistics_count_what_was_asked_and_what_was_computed(loaded):
    engine = Engine(loaded(), NO_STOP, buckets=table())
    completions = engine.generate_all(requests(number_prompts(100)))
    assert engine.stats.prompt_tokens == sum(completion.prompt_tokens for completion in completions)
    assert engine.stats.output_tokens == sum(completion.output_tokens for completion in completions)
    assert 0.5 < engine.stats.padding_efficiency < 1
    assert 0.5 < engine.stats.occupancy < 1
    assert engine.stats.seconds > 0
