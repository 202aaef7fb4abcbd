"""A model with trained parameters in it: what every method returns, and what is saved, evaluated and published.

`interface` is the protocol that a method's trained model fulfils. `parameters` saves and restores trained parameters.
`peft_adapter` and `whole_model` are the forms that several methods share; the forms of a single method stand in its own
package.
"""

from finetune_trainer.trained_model.interface import LoadInstructions, TrainedModel
from finetune_trainer.trained_model.parameters import (
    TRAINED,
    CachesTrainedWeights,
    count_trained,
    load_trained,
    save_trained,
    weights_changed,
)

__all__ = ["TRAINED", "CachesTrainedWeights", "LoadInstructions", "TrainedModel", "count_trained", "load_trained",
           "save_trained", "weights_changed"]
