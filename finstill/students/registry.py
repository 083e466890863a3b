"""Every student architecture by the name that recipes use."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, AutoModelForSequenceClassification

from finstill.quiet import quiet_transformers
from finstill.students.base import Student
from finstill.students.convolution import Convolution
from finstill.students.encoder import Encoder
from finstill.students.lstm_attention import LstmAttention
from finstill.students.static import Static

STUDENTS: dict[str, type[Student]] = {
    "lstm_attention": LstmAttention,
    "convolution": Convolution,
    "encoder": Encoder,
    "static": Static,
}

# transformers' Auto classes then load a saved student by its model_type, without trust_remote_code.
for _student in STUDENTS.values():
    assert _student.config_class is not None
    AutoConfig.register(_student.config_class.model_type, _student.config_class)
    AutoModelForSequenceClassification.register(_student.config_class, _student)


def load_student(folder: Path) -> Student:
    """Return the student saved in `folder`, in evaluation mode."""
    with quiet_transformers():
        return AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ).eval()
