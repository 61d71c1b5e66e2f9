import pytest

from recipe.estimator.report import DECISIVE, recommendation, with_error


def result(**differences):
    """Gains of 0.5 + difference, each difference with its half width for all together."""
    rules = {"token": (0.0, 0.0)} | differences
    return {
        "options": {"baseline": "token", "prompts": 128},
        "rules": {
            name: {
                DECISIVE: {
                    "value": 0.5 + difference,
                    "half_width": 0.1,
                    "difference": difference,
                    "difference_half_width": half,
                    "difference_half_width_together": half,
                }
            }
            for name, (difference, half) in rules.items()
        },
    }


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ({"balanced": (0.1, 0.05)}, "**Recommended here: `balanced`.** A step along its gradient "),
        ({"balanced": (0.1, 0.05)}, "gains +20% over `token`"),
        ({"balanced": (0.1, 0.2)}, "**The choice does not matter here** as far as 128 prompts"),
        ({"balanced": (-0.1, 0.05)}, "**Keep `token`, or any rule but `balanced`**"),
        ({"balanced": (0.1, 0.2), "sequence": (-0.1, 0.05)}, "any rule but `sequence`**"),
    ],
)
def test_one_sentence_says_which_rule_and_how_sure(differences, said):
    assert said in recommendation(result(**differences))


def test_noise_that_hides_the_gradient_is_said():
    found = result(balanced=(0.1, 0.05))
    found["rules"]["token"][DECISIVE]["value"] = None
    assert "noise hides the gradient" in recommendation(found)
    assert with_error({"value": None, "half_width": 1.0}) == "-"


def test_an_interval_stands_beside_its_value():
    found = {
        "value": 0.1234,
        "half_width": 0.01,
        "difference": 0.05,
        "difference_half_width": 0.02,
    }
    assert with_error(found) == "0.123 +- 0.010"
    assert with_error(found, 1e3, 1, "difference") == "+50.0 +- 20.0"
