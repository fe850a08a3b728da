"""Which function, operator or tensor method becomes which module: a table, read by the pass functional-to-module."""

from qatc.modules.forms.activations import ACTIVATIONS
from qatc.modules.forms.arithmetic import ARITHMETIC
from qatc.modules.forms.form import Form
from qatc.modules.forms.layers import LAYERS
from qatc.modules.forms.shapes import SHAPES

FORMS: tuple[Form, ...] = (*ACTIVATIONS, *ARITHMETIC, *SHAPES, *LAYERS)
