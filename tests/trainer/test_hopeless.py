"""After an unexpected exception in training, a small copy of the model shows whether the job can ever work."""

from types import SimpleNamespace

import pytest
from finetune_trainer.distributed.rank import RankInfo
from finetune_trainer.errors import BadConfig, Diverged
from finetune_trainer.run.attempt import training


@pytest.mark.parametrize(("raised", "processes", "hopeless", "told"), [
    (AttributeError("no keys"), 1, True, BadConfig), (AttributeError("no keys"), 1, False, AttributeError),
    (AttributeError("no keys"), 2, True, AttributeError), (OSError(28, "disk full"), 1, True, OSError),
    (Diverged("nan"), 1, True, Diverged),
])
def test_a_training_that_fails_on_a_small_copy_too_is_a_bad_description(tmp_path, monkeypatch, raised, processes,
                                                                        hopeless, told):
    def rehearse(*arguments):
        if hopeless:
            raise BadConfig("spec.method: can't train it")

    monkeypatch.setattr(training, "rehearse", rehearse)
    attempt = SimpleNamespace(config=None, rank=RankInfo(0, processes), scratch=tmp_path)
    inputs = SimpleNamespace(base=None, files=SimpleNamespace(folder=tmp_path), data=None, tokenizer=None)
    with pytest.raises(told), training.rehearsed_on_failure(attempt, inputs):  # type: ignore[arg-type]
        raise raised
