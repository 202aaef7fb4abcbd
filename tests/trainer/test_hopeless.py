"""A training that raises what nobody foresaw: whether it would again is asked of a small copy of the model."""

from types import SimpleNamespace

import pytest
from finetune_trainer.errors import BadConfig, Diverged
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.run import attempt as attempt_module

from tests.models import save_tiny_model


@pytest.mark.parametrize(("raised", "processes", "hopeless", "told"), [
    (AttributeError("no keys"), 1, True, BadConfig), (AttributeError("no keys"), 1, False, AttributeError),
    (AttributeError("no keys"), 2, True, AttributeError), (OSError(28, "disk full"), 1, True, OSError),
    (Diverged("nan"), 1, True, Diverged),
])
def test_a_training_that_fails_on_a_small_copy_too_is_a_bad_description(tmp_path, monkeypatch, raised, processes,
                                                                        hopeless, told):
    save_tiny_model(tmp_path / "model")

    def rehearse(*arguments):
        if hopeless:
            raise BadConfig("spec.method: can't train it")

    monkeypatch.setattr(attempt_module, "rehearse", rehearse)
    attempt = SimpleNamespace(config=None, place=SimpleNamespace(size=processes), scratch=tmp_path)
    with pytest.raises(told), attempt_module._told_if_hopeless(attempt, ModelFiles(tmp_path / "model", ""), None, None):
        raise raised
