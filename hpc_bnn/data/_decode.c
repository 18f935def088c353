/* Normalises stored fields in one pass: out = (raw - shift) * factor, level by level, and tells whether all
 * of it is sane: no NaN, nothing at or beyond a bound.
 *
 * The same operations as numpy's subtract and multiply, so the same bits: setup.py compiles with
 * -ffp-contract=off. One pass where numpy takes three; the interpreter is free meanwhile.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>

static PyObject *floats(PyObject *self, PyObject *arguments)
{
    Py_buffer raw, shift, factor, out;
    float bound;
    if (!PyArg_ParseTuple(arguments, "y*y*y*w*f", &raw, &shift, &factor, &out, &bound))
        return NULL;
    Py_ssize_t levels = shift.len / (Py_ssize_t)sizeof(float);
    Py_ssize_t count = levels > 0 ? out.len / (Py_ssize_t)sizeof(float) / levels : 0;
    int fits = shift.len == factor.len && raw.len == out.len
        && levels * count * (Py_ssize_t)sizeof(float) == out.len;
    long strange = 0;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t level = 0; level < levels; level++) {
            const float *from = (const float *)raw.buf + level * count;
            float *to = (float *)out.buf + level * count;
            const float less = ((const float *)shift.buf)[level], times = ((const float *)factor.buf)[level];
            int found = 0;
            for (Py_ssize_t i = 0; i < count; i++) {
                const float x = (from[i] - less) * times;
                to[i] = x;
                found |= !(fabsf(x) < bound); /* also where x is NaN */
            }
            strange += found;
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&raw);
    PyBuffer_Release(&shift);
    PyBuffer_Release(&factor);
    PyBuffer_Release(&out);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "raw, shift, factor and out do not fit each other");
        return NULL;
    }
    return PyBool_FromLong(strange == 0);
}

static PyMethodDef methods[] = {
    {"floats", floats, METH_VARARGS,
     "floats(raw, shift, factor, out, bound): decode float32 (L, n) by float32 (L,) and tell whether all of it is "
     "smaller than bound in magnitude"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_decode", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__decode(void) { return PyModule_Create(&module); }
