"""What stages that fine-tune report of a model."""

from alignment.tuning import Tuned, of_model_left


def test_figures_of_weights_that_are_not_left_are_called_so():
    tuned = Tuned(True, 40, dict)
    assert of_model_left({"validation_loss": 0.1}, tuned, {}) == {"validation_loss": 0.1}
    assert of_model_left({"validation_loss": 0.1}, tuned, {"best_step": 40}) == {"validation_loss": 0.1}
    assert of_model_left({"validation_loss": 0.1}, tuned, {"best_step": 10}) == {"last_validation_loss": 0.1}
