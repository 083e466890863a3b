"""Flipped labels in Financial PhraseBank: how many of them stand at the top of the review.

    python bench/review.py [--quick] [--json FILE]

Of 5% of the train rows the label is changed to another one, drawn evenly. The embedded encoder is then fine-tuned on
the train rows, flipped ones included, and an LSTM learns from its logits and the same labels, as in a deployment. All
labels of the corpus are ranked by how much they are doubted. The data set's own doubtful labels compete with the flips:
its sentences are labelled as at least half of the annotators did.

`flips_found_in_first_5_percent` is the share of the flips among the first 5% of the train rows, ranked as the asset
label_review ranks them. `found_by_...` is the same share where other classifiers, or their mean, rank: by the
probability of the given label. `..._held_out` flips validation and test rows in place of train rows, for a teacher
that has learned from none of them: so a published teacher is met, and a fine-tuned one if it were crossed over folds.
`doubted` is the share of all labels that the review lists, `flips_doubted` the share of the flips that it lists.

Artefacts stay in .finstill/review: a run that was stopped goes on from there. `--quick` fine-tunes for one epoch.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
