"""Many names for one thing: which are read, in which order, and what a wrong table does."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
from ruamel.yaml import YAML

from hx_gateway.observability.otlp import aliases as aliases_module
from hx_gateway.observability.otlp.aliases import ALIASES, CANONICAL, AliasError, Aliases

TEXT = resources.files(aliases_module.__package__ or "").joinpath("aliases.yaml").read_text(encoding="utf-8")
TABLE = YAML(typ="safe").load(TEXT)
SAMPLES: dict[str, Any] = {"text": "some", "count": 7, "amount": 0.25}


def sources(name: str) -> list[str]:
    return [entry if isinstance(entry, str) else entry["attribute"] for entry in TABLE["fields"][name]["from"]]


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("provider", "gen_ai.provider.name gen_ai.system llm.provider llm.system"),
        ("model", "gen_ai.response.model gen_ai.request.model llm.model_name langfuse.observation.model.name"),
        ("input_tokens", "gen_ai.usage.input_tokens gen_ai.usage.prompt_tokens llm.token_count.prompt"),
        ("output_tokens", "gen_ai.usage.output_tokens gen_ai.usage.completion_tokens llm.token_count.completion"),
        (
            "cache_read_tokens",
            """gen_ai.usage.cache_read.input_tokens gen_ai.usage.cache_read_input_tokens
            llm.token_count.prompt_details.cache_read""",
        ),
        (
            "cache_write_tokens",
            """gen_ai.usage.cache_write.input_tokens gen_ai.usage.cache_creation.input_tokens
            gen_ai.usage.cache_creation_input_tokens llm.token_count.prompt_details.cache_write""",
        ),
        (
            "reasoning_tokens",
            """gen_ai.usage.reasoning.output_tokens gen_ai.usage.reasoning_tokens
            llm.token_count.completion_details.reasoning""",
        ),
        ("cost", "llm.cost.total langfuse.observation.cost_details gen_ai.usage.cost gen_ai.usage.total_cost"),
        (
            "session",
            "gen_ai.conversation.id session.id langfuse.session.id traceloop.association.properties.session_id",
        ),
        ("user", "user.id enduser.id gen_ai.user llm.user langfuse.user.id"),
        ("kind", "gen_ai.operation.name openinference.span.kind traceloop.span.kind"),
        ("agent", "gen_ai.agent.name agent.name traceloop.entity.name graph.node.name"),
        ("task", "task.id"),
    ],
)
def test_every_name_is_read_and_the_first_wins(name: str, attributes: str) -> None:
    names = attributes.split()
    reads = TABLE["fields"][name]["reads"]
    sample = SAMPLES[reads]
    assert sources(name) == names
    for attribute in names:
        assert ALIASES.canonical({attribute: sample}) == {name: sample}
    for index, attribute in enumerate(names):
        rest: dict[str, Any] = dict.fromkeys(names[index + 1 :], "other" if reads == "text" else 0)
        assert ALIASES.canonical(rest | {attribute: sample})[name] == sample


@pytest.mark.parametrize(
    ("system", "provider"),
    [
        ("vertex_ai", "gcp.vertex_ai"),
        ("gemini", "gcp.gemini"),
        ("az.ai.openai", "azure.ai.openai"),
        ("az.ai.inference", "azure.ai.inference"),
        ("xai", "x_ai"),
        ("OpenAI", "openai"),
        ("Vertex_AI", "gcp.vertex_ai"),
        ("anthropic", "anthropic"),
    ],
)
def test_old_names_of_providers_become_todays(system: str, provider: str) -> None:
    assert ALIASES.canonical({"gen_ai.system": system}) == {"provider": provider}
    assert ALIASES.canonical({"llm.provider": "vertex_ai"}) == {"provider": "vertex_ai"}


@pytest.mark.parametrize("value", ["", "  ", None, True, [], {}, 1.5])
def test_a_value_that_cannot_be_used_gives_way_to_the_next_name(value: Any) -> None:
    found = ALIASES.canonical({"gen_ai.response.model": value, "gen_ai.request.model": "gpt-5"})
    assert found == {"model": "gpt-5"}


@pytest.mark.parametrize(("value", "text"), [(" a ", "a"), (5, "5"), ("x" * 300, "x" * 256), ("a\x00b", "a\ufffdb")])
def test_texts_are_trimmed_and_bounded_and_integers_taken(value: Any, text: str) -> None:
    assert ALIASES.canonical({"session.id": value}) == {"session": text}


@pytest.mark.parametrize(
    ("value", "count"),
    [(5, 5), (0, 0), (5.0, 5), ("5", 5)]
    + [(bad, None) for bad in (-1, 2**63, True, 5.5, "5.5", "-5", "٣", "9" * 30, "NaN", [5], None)],
)
def test_counts_are_whole_and_not_negative(value: Any, count: int | None) -> None:
    found = ALIASES.canonical({"gen_ai.usage.input_tokens": value})
    assert found == ({} if count is None else {"input_tokens": count})
    assert count is None or type(found["input_tokens"]) is int


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (0.5, 0.5),
        (1, 1.0),
        ("0.5", 0.5),
        ('{"input": 0.25, "output": 0.5}', 0.75),
        ('{"input": 0.25, "output": 0.5, "total": 2}', 2.0),
        ({"input": 0.25, "note": "x"}, 0.25),
    ]
    + [
        (bad, None)
        for bad in (-0.5, True, "NaN", "one", "[1]", "{}", '{"total": "x"}', "1e400", "9" * 400, "[" * 9999, None)
    ],
)
def test_amounts_are_numbers_or_the_total_of_details(value: Any, amount: float | None) -> None:
    expected = {} if amount is None else {"cost": amount}
    assert ALIASES.canonical({"langfuse.observation.cost_details": value}) == expected


@pytest.mark.parametrize(
    "attribute",
    [
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.tool.call.arguments",
        "input.value",
        "traceloop.entity.output",
        "gen_ai.prompt",
        "gen_ai.prompt.0.content",
        "gen_ai.completion.12.tool_calls.0.arguments",
        "llm.input_messages.0.message.content",
        "retrieval.documents.3.document.content",
        "ai.prompt.messages",
    ],
)
def test_what_was_said_is_known_as_content(attribute: str) -> None:
    assert ALIASES.is_content(attribute)


@pytest.mark.parametrize(
    "attribute",
    [
        "gen_ai.prompt.name",
        "gen_ai.prompts",
        "gen_ai.input",
        "input.mime_type",
        "xgen_ai.prompt.0.content",
        "llm.tools_used",
    ],
)
def test_what_only_sounds_alike_is_no_content(attribute: str) -> None:
    assert not ALIASES.is_content(attribute)


def test_events_that_carry_messages_are_known() -> None:
    assert ALIASES.is_content_event("gen_ai.user.message")
    assert not ALIASES.is_content_event("exception")


def test_the_table_has_all_fields() -> None:
    assert set(TABLE["fields"]) == CANONICAL


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("  task:\n", "  tusk:\n", "fields must be"),
        ("reads: amount", "reads: money", "money"),
        ("- task.id", "- 5", "from"),
        ("- task.id", "- task.id\n      - task.id", "task: a name stands twice"),
        ("- task.id", '- ""', "task: an empty list or name"),
        ("    from:\n      - task.id", "    from: []", "task: an empty list or name"),
        ("    lower: true", "    upper: true", "upper"),
        ("          gemini: gcp.gemini", "          gemini: 7", "values"),
        ("- gen_ai.choice", "- gen_ai.tool.message", "events: a name stands twice"),
        ("  task:\n", "  user:\n", "not YAML"),
        ("fields:", "fields: [", "not YAML"),
        ("content:", "contents:", "contents"),
    ],
)
def test_a_wrong_table_is_refused_by_name(old: str, new: str, complaint: str) -> None:
    assert old in TEXT
    with pytest.raises(AliasError, match=complaint):
        Aliases(TEXT.replace(old, new, 1))


def test_the_table_comes_with_the_package() -> None:
    assert Aliases(TEXT).canonical({"task.id": "t"}) == {"task": "t"}
