import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from support import tiny_models

from nightpress.diffusion_core.conditioning.embedding_cache import EmbeddingCache
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.copy_to_host import Copy, CopyStream
from nightpress.diffusion_core.sampling.prompt_embeddings import Conditioner

Loaded = Callable[[str], LoadedModel]

LAYOUT_NAMES = {
    "sd": {"prompt_embeds"},
    "lcm": {"prompt_embeds"},
    "sdxl": {"prompt_embeds", "pooled_prompt_embeds"},
    "sd3": {"prompt_embeds", "pooled_prompt_embeds"},
    "flux": {"prompt_embeds", "pooled_prompt_embeds"},
    "pixart": {"prompt_embeds", "prompt_attention_mask"},
    "sana": {"prompt_embeds", "prompt_attention_mask"},
}


def tensors(arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in arguments.items() if value is not None}


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_family_gets_its_embeddings_under_its_own_names(
    family: str, guided: bool, loaded: Loaded
) -> None:
    conditioner = Conditioner(loaded(family))
    arguments = tensors(conditioner.arguments(["a fox", "two"], ["", "blur"], guided))
    names = LAYOUT_NAMES[family]
    if guided and family not in ("flux", "lcm"):
        names = names | {f"negative_{name}" for name in names}
    assert arguments.keys() == names
    assert all(value.shape[0] == 2 for value in arguments.values())


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_an_embedding_does_not_depend_on_other_prompts(family: str, loaded: Loaded) -> None:
    conditioner = Conditioner(loaded(family))
    together = tensors(conditioner.arguments(["a fox", "b"], ["hats", ""], True))
    for place, (prompt, negative) in enumerate([("a fox", "hats"), ("b", "")]):
        alone = tensors(Conditioner(loaded(family)).arguments([prompt], [negative], True))
        for name, value in alone.items():
            assert torch.equal(value[0], together[name][place]), name


@pytest.fixture
def encodings(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[Any, Any]]:
    """How often the tiny Stable Diffusion encoded each (prompt, negative prompt)."""
    counts: Counter[tuple[Any, Any]] = Counter()
    pipeline = loaded("sd").pipeline
    encode = pipeline.encode_prompt

    def counted(
        prompt: Any,
        device: Any,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: Any = None,
        prompt_embeds: Any = None,
        negative_prompt_embeds: Any = None,
    ) -> Any:
        counts[prompt, negative_prompt if do_classifier_free_guidance else "off"] += 1
        return encode(
            prompt,
            device,
            num_images_per_prompt,
            do_classifier_free_guidance,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
        )

    monkeypatch.setattr(pipeline, "encode_prompt", counted)
    return counts


def test_each_distinct_prompt_and_negative_prompt_is_encoded_once(
    loaded: Loaded, encodings: Counter[tuple[Any, Any]]
) -> None:
    conditioner = Conditioner(loaded("sd"))
    encodings.clear()
    for _ in range(3):
        conditioner.arguments(["a", "b", "a"], ["x", "x", ""], guided=True)
    assert encodings == {("a", "off"): 1, ("b", "off"): 1, (None, "x"): 1, (None, None): 1}


def test_no_negative_prompt_is_encoded_without_guidance(
    loaded: Loaded, encodings: Counter[tuple[Any, Any]]
) -> None:
    conditioner = Conditioner(loaded("sd"))
    encodings.clear()
    conditioner.arguments(["a"], ["x"], guided=False)
    assert encodings == {("a", "off"): 1}


def test_a_full_cache_drops_the_least_recently_used_embeddings() -> None:
    one = {"prompt_embeds": torch.zeros(1, 100)}  # 400 bytes
    cache = EmbeddingCache(max_bytes=1000)
    for text in ("a", "b"):
        cache.put(("prompt", text), one)
    cache.get(("prompt", "a"))
    cache.put(("prompt", "c"), one)
    held = [text for text in "abc" if cache.get(("prompt", text))]
    assert held == ["a", "c"]


def test_a_replaced_embedding_is_counted_once() -> None:
    one = {"prompt_embeds": torch.zeros(100)}
    cache = EmbeddingCache(max_bytes=1000)
    cache.put("a", one)
    for _ in range(5):
        cache.put("b", one)
    assert cache.get("a") is not None
    cache.put("b", {"prompt_embeds": torch.zeros(200)})  # 800 bytes, and 400 of "a"
    assert cache.get("a") is None


def test_a_cache_too_small_for_anything_still_works(loaded: Loaded) -> None:
    small, large = Conditioner(loaded("sd"), cache_bytes=0), Conditioner(loaded("sd"))
    prompts, negatives = ["a", "b", "a"], ["x", "", "y"]
    ours, theirs = (c.arguments(prompts, negatives, True) for c in (small, large))
    assert all(torch.equal(ours[name], theirs[name]) for name in tensors(theirs))


def test_kept_embeddings_lock_no_pages(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        def synchronize(self) -> None: ...

    locked, kept = list[torch.Tensor](), list[torch.Tensor]()

    def copy_to_host(stream: CopyStream, tensor: torch.Tensor) -> Copy:
        locked.append(tensor.clone())
        return Copy(locked[-1], Done())

    def put(cache: EmbeddingCache, key: Any, embedding: Any) -> Any:
        kept.extend(embedding.values())
        return embedding

    monkeypatch.setattr(CopyStream, "copy_to_host", copy_to_host)
    monkeypatch.setattr(EmbeddingCache, "put", put)
    Conditioner(loaded("sdxl")).prepare(["a fox"], ["blur"], guided=True)
    assert len(kept) == 4
    assert {each.data_ptr() for each in kept}.isdisjoint(each.data_ptr() for each in locked)
    assert all(any(torch.equal(each, other) for other in locked) for each in kept)


def test_sdxl_uses_zeros_for_a_missing_negative_prompt(loaded: Loaded) -> None:
    arguments = Conditioner(loaded("sdxl")).arguments(["a", "a"], ["", "x"], guided=True)
    assert not arguments["negative_prompt_embeds"][0].any()
    assert arguments["negative_prompt_embeds"][1].any()


def test_sana_puts_its_instruction_before_prompts_only(loaded: Loaded) -> None:
    conditioner = Conditioner(loaded("sana"))
    arguments = conditioner.arguments(["x"], ["x"], guided=True)
    assert not torch.equal(arguments["prompt_embeds"], arguments["negative_prompt_embeds"])


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux", "sana"])
def test_embeddings_from_another_thread_have_the_same_bits(family: str, loaded: Loaded) -> None:
    given = (["a fox, asleep", "two"], ["hats", ""], True)
    here = tensors(Conditioner(loaded(family)).arguments(*given))
    ahead = Conditioner(loaded(family))
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(torch.get_num_threads).result() == torch.get_num_threads()
        thread.submit(ahead.prepare, *given).result()
    there = tensors(ahead.arguments(*given))
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_what_was_prepared_is_not_encoded_again(
    loaded: Loaded, encodings: Counter[tuple[Any, Any]]
) -> None:
    conditioner = Conditioner(loaded("sd"))
    encodings.clear()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(conditioner.prepare, ["a", "b"], ["x", ""], True).result()
    assert encodings.total() == 4
    conditioner.arguments(["b", "a"], ["", "x"], guided=True)
    assert encodings.total() == 4


def test_threads_that_need_the_same_prompts_encode_each_once_and_one_at_a_time(
    loaded: Loaded, encodings: Counter[tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    conditioner = Conditioner(loaded("sd"))
    encodings.clear()
    call, at_once, most = conditioner._call, [0], [0]

    def watched(*args: Any, **given: Any) -> Any:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.01)
        try:
            return call(*args, **given)
        finally:
            at_once[0] -= 1

    monkeypatch.setattr(conditioner, "_call", watched)
    prompts, together = [f"picture {n}" for n in range(12)], threading.Barrier(4)

    def ask(turned: int) -> dict[str, Any]:
        together.wait(20)
        order = prompts[turned:] + prompts[:turned]
        return tensors(conditioner.arguments(order, ["blur"] * 12, guided=True))

    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(ask, (0, 3, 6, 9))
    assert set(encodings.values()) == {1}
    assert (encodings.total(), most) == (13, [1])
    for turned, other in zip((3, 6, 9), others, strict=True):
        for name, value in first.items():
            assert torch.equal(value.roll(-turned, 0), other[name])


def test_cached_embeddings_are_available_while_another_prompt_is_encoded(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditioner = Conditioner(loaded("sd"))
    conditioner.prepare(["a"], [""], guided=False)
    begun, go_on = threading.Event(), threading.Event()
    encode = conditioner._encode

    def slow(prompt: str) -> Any:
        begun.set()
        assert go_on.wait(20)
        return encode(prompt)

    monkeypatch.setattr(conditioner, "_encode", slow)
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(conditioner.prepare, ["b"], [""], False)
        assert begun.wait(20)
        assert len(conditioner.arguments(["a"], [""], guided=False)["prompt_embeds"]) == 1
        assert not ahead.done()
        go_on.set()
        ahead.result(20)


def test_a_thread_with_exclusive_access_may_encode_and_others_wait(loaded: Loaded) -> None:
    conditioner = Conditioner(loaded("sd"))
    with ThreadPoolExecutor(1) as thread:
        with conditioner.exclusive():
            ahead = thread.submit(conditioner.prepare, ["b"], [""], False)
            conditioner.arguments(["a"], [""], guided=False)
            with pytest.raises(TimeoutError):
                ahead.result(0.2)
        ahead.result(20)


def test_a_prompt_that_fails_in_one_thread_fails_in_the_next_and_affects_no_other(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditioner = Conditioner(loaded("sd"))
    encode = conditioner._encode

    def refusing(key: Any) -> Any:
        if "b" in key:
            raise ValueError("no such letter")
        return encode(key)

    monkeypatch.setattr(conditioner, "_encode", refusing)
    with ThreadPoolExecutor(1) as thread:
        for _ in range(2):
            with pytest.raises(ValueError, match="no such letter"):
                thread.submit(conditioner.prepare, ["a", "b"], ["", ""], False).result()
    with pytest.raises(ValueError, match="no such letter"):
        conditioner.arguments(["b"], [""], guided=False)
    conditioner.arguments(["a", "c"], ["", ""], guided=False)
