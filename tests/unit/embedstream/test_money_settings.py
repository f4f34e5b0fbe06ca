from __future__ import annotations

import pytest

from embedstream.errors import ConfigError
from embedstream.settings import load, load_with_sources, shown
from embedstream.spending import projected


@pytest.mark.parametrize("price", ["0", "-1", "nan", "inf", "much"])
def test_a_price_that_is_none_is_named_with_its_source(price: str) -> None:
    with pytest.raises(ConfigError, match=r"cost\.price_per_hour.*--price-per-hour"):
        load(flags={"cost.price_per_hour": price})


def test_a_budget_needs_a_price_and_is_above_zero() -> None:
    with pytest.raises(ConfigError, match="a budget needs a price"):
        load(flags={"cost.budget": 5})
    with pytest.raises(ConfigError, match=r"cost\.budget"):
        load(flags={"cost.price_per_hour": 0.5, "cost.budget": 0})
    assert load(flags={"cost.price_per_hour": 0.5, "cost.budget": 5}).cost.budget == 5


def test_the_metrics_token_is_a_secret_and_the_encoder_s_tokens_are_none() -> None:
    told = {
        name: value
        for name, value, _ in shown(
            load_with_sources(flags={"metrics.token": "abc", "encoder.max_tokens": 99})
        )
    }
    assert told["metrics.token"] == "********"
    assert told["encoder.max_tokens"] == "99"
    for wrong in ("", "with space", "ä"):
        with pytest.raises(ConfigError, match=r"metrics\.token .* without spaces") as caught:
            load(flags={"metrics.token": wrong})
        assert not wrong or wrong not in str(caught.value)


def test_a_wrong_port_is_said_to_come_from_the_flag_that_there_is() -> None:
    with pytest.raises(ConfigError, match=r"metrics\.port = 99999 \(from --metrics-port\)"):
        load(flags={"metrics.port": 99999})


def test_what_it_will_have_cost() -> None:
    assert projected(1.0, 0.5, 7200.0) == 2.0
    assert projected(1.0, 0.5, None) is None
