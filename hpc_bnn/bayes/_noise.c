/* Keyed noise on CPUs: Philox4x32-10 words, standard normals, and the fused weight draw.
 *
 * The definition lives in noise.py; this file is its fast implementation. Element i of a stream is word i % 4
 * of the Philox block whose counter is (i / 4 as 64 bits, step, sample) under the 64-bit key.
 *
 * Bit-identical on every CPU level and for every number of threads, because nothing here depends on the
 * width of a vector: only integer arithmetic, IEEE + - * and the correctly rounded sqrt are used, log, sin, cos
 * and exp are fixed polynomials, and setup.py compiles with -ffp-contract=off so that no level fuses a multiply-add.
 *
 * Sources: Salmon et al. 2011 (doi:10.1145/2063384.2063405) for Philox; Box and Muller 1958
 * (doi:10.1214/aoms/1177706645); polynomial coefficients of S. Moshier's Cephes (logf, sinf, cosf, expf).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define TILE_BLOCKS 64                 /* Philox blocks made at once: the tile stays in the first-level cache */
#define TILE (4 * TILE_BLOCKS)         /* elements per tile */
#define MAX_THREADS 256
#define MIN_PER_THREAD (1 << 15)       /* below this, starting a thread costs more than it saves */

typedef struct {
    uint32_t key0, key1, step, sample;
} Stream;

static inline uint32_t bits_of(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline float float_of(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

/* Every function below is forced inline, so that each CPU level gets a copy compiled with its own instructions. */
#define LANE static inline __attribute__((always_inline))

LANE void philox(Stream s, uint64_t block, uint32_t *x0, uint32_t *x1, uint32_t *x2, uint32_t *x3)
{
    uint32_t a = (uint32_t)block, b = (uint32_t)(block >> 32), c = s.step, d = s.sample;
    uint32_t k0 = s.key0, k1 = s.key1;
    for (int round = 0; round < 10; round++) {
        uint32_t high0 = (uint32_t)(((uint64_t)a * 0xD2511F53u) >> 32), low0 = a * 0xD2511F53u;
        uint32_t high1 = (uint32_t)(((uint64_t)c * 0xCD9E8D57u) >> 32), low1 = c * 0xCD9E8D57u;
        a = high1 ^ b ^ k0;
        b = low1;
        c = high0 ^ d ^ k1;
        d = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    *x0 = a; *x1 = b; *x2 = c; *x3 = d;
}

/* log(u) for u in [2^-33, 1]: u = m 2^e with m in [sqrt(1/2), sqrt(2)). */
LANE float log_unit(float u)
{
    uint32_t shifted = bits_of(u) - 0x3F3504F3u;
    float e = (float)((int32_t)shifted >> 23);
    float t = float_of((shifted & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
    float z = t * t;
    float p = 7.0376836292e-2f;
    p = p * t - 1.1514610310e-1f;
    p = p * t + 1.1676998740e-1f;
    p = p * t - 1.2420140846e-1f;
    p = p * t + 1.4249322787e-1f;
    p = p * t - 1.6668057665e-1f;
    p = p * t + 2.0000714765e-1f;
    p = p * t - 2.4999993993e-1f;
    p = p * t + 3.3333331174e-1f;
    float tail = t * z * p - 2.12194440e-4f * e - 0.5f * z;
    return (t + tail) + 0.693359375f * e;
}

/* One Box-Muller pair: radius from word x, angle 2 pi y / 2^32 from word y, reduced exactly in integers. */
LANE void box_muller(uint32_t x, uint32_t y, float *first, float *second)
{
    /* Convert in halves: unsigned 32-bit conversion has no instruction below AVX-512; the sum rounds once, as it would. */
    float word = (float)(int32_t)(x >> 16) * 65536.0f + (float)(int32_t)(x & 0xFFFFu);
    float u = word * 0x1p-32f + 0x1p-33f;
    float radius = sqrtf(-2.0f * log_unit(u));
    uint32_t quadrant = (y + 0x20000000u) >> 30;
    float f = (float)(int32_t)(y - (quadrant << 30)) * (float)(1.57079632679489661923 * 0x1p-30);
    float z = f * f;
    float sine = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * f + f;
    float cosine = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z
                   - 0.5f * z + 1.0f;
    uint32_t swap = 0u - (quadrant & 1u), sine_bits = bits_of(sine), cosine_bits = bits_of(cosine);
    uint32_t difference = (sine_bits ^ cosine_bits) & swap;
    sine_bits ^= difference ^ ((quadrant & 2u) << 30);
    cosine_bits ^= difference ^ (((quadrant + 1u) & 2u) << 30);
    *first = radius * float_of(cosine_bits);
    *second = radius * float_of(sine_bits);
}

/* exp(x), clamped to the normal numbers of float32. */
LANE float exp_clamped(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;   /* round to nearest: 1.5 * 2^23 */
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    return p * float_of((uint32_t)((int32_t)n + 127) << 23);
}

LANE void tile_words(Stream s, uint64_t block, uint32_t *words)
{
    for (int j = 0; j < TILE_BLOCKS; j++)
        philox(s, block + (uint64_t)j, words + 4 * j, words + 4 * j + 1, words + 4 * j + 2, words + 4 * j + 3);
}

LANE void tile_normals(Stream s, uint64_t block, float *eps)
{
    uint32_t a[TILE_BLOCKS], b[TILE_BLOCKS], c[TILE_BLOCKS], d[TILE_BLOCKS];
    float p[TILE_BLOCKS], q[TILE_BLOCKS], r[TILE_BLOCKS], t[TILE_BLOCKS];
    for (int j = 0; j < TILE_BLOCKS; j++)
        philox(s, block + (uint64_t)j, a + j, b + j, c + j, d + j);
    for (int j = 0; j < TILE_BLOCKS; j++) {
        box_muller(a[j], b[j], p + j, q + j);
        box_muller(c[j], d[j], r + j, t + j);
    }
    for (int j = 0; j < TILE_BLOCKS; j++) {
        eps[4 * j] = p[j];
        eps[4 * j + 1] = q[j];
        eps[4 * j + 2] = r[j];
        eps[4 * j + 3] = t[j];
    }
}

/* What is made of a stream: one job, split among threads at tile boundaries of the stream. */
typedef enum { WORDS, NORMALS, DRAW, PULL } Task;

typedef struct {
    Task task;
    Stream stream;
    uint64_t block;                     /* element 0 is word `skip` (0..3) of this Philox block */
    unsigned skip;
    size_t count;
    float sign;                         /* +1, or -1 for the mirrored partner of an antithetic pair */
    int add;                            /* whether PULL adds to what is in out */
    void *out;
    /* Of each tensor of the row: where mu and log_sigma lie, and the element of the row that follows its last one. */
    const float *const *mu, *const *log_sigma;
    const size_t *end;
    const float *grad;
    float *keep;                        /* where DRAW leaves exp(log_sigma) eps, or NULL */
} Job;

/* DRAW or PULL of the elements i to i + n of a row, which belong to one tensor, whose first element is `first`. */
LANE void run_piece(const Job *job, size_t tensor, size_t first, size_t i, size_t n, const float *eps)
{
    const float sign = job->sign;
    const float *restrict log_sigma = job->log_sigma[tensor] + (i - first);
    float *restrict out = (float *)job->out + i;
    if (job->task == DRAW) {
        const float *restrict mu = job->mu[tensor] + (i - first);
        float shift[TILE];
        for (size_t k = 0; k < n; k++) shift[k] = exp_clamped(log_sigma[k]) * (sign * eps[k]);
        for (size_t k = 0; k < n; k++) out[k] = mu[k] + shift[k];
        if (job->keep) memcpy(job->keep + i, shift, 4 * n);
    } else {
        const float *restrict grad = job->grad + i;
        if (job->add)
            for (size_t k = 0; k < n; k++) out[k] += grad[k] * (exp_clamped(log_sigma[k]) * (sign * eps[k]));
        else
            for (size_t k = 0; k < n; k++) out[k] = grad[k] * (exp_clamped(log_sigma[k]) * (sign * eps[k]));
    }
}

LANE void run_range(const Job *job, size_t begin, size_t end)
{
    size_t i = begin, tensor = 0;
    while (i < end) {
        uint64_t block = job->block + (job->skip + i) / 4;
        size_t skip = (job->skip + i) % 4;
        size_t n = TILE - skip < end - i ? TILE - skip : end - i;
        if (job->task == WORDS) {
            uint32_t words[TILE];
            tile_words(job->stream, block, words);
            memcpy((uint32_t *)job->out + i, words + skip, 4 * n);
        } else {
            float tile[TILE];
            tile_normals(job->stream, block, tile);
            const float *eps = tile + skip;
            if (job->task == NORMALS) {
                float *restrict out = (float *)job->out + i;
                for (size_t k = 0; k < n; k++) out[k] = job->sign * eps[k];
            } else {
                for (size_t done = 0; done < n;) {
                    while (job->end[tensor] <= i + done) tensor++;
                    size_t left = job->end[tensor] - (i + done), m = n - done < left ? n - done : left;
                    run_piece(job, tensor, tensor ? job->end[tensor - 1] : 0, i + done, m, eps + done);
                    done += m;
                }
            }
        }
        i += n;
    }
}

static void range_baseline(const Job *job, size_t begin, size_t end) { run_range(job, begin, end); }
#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static void range_avx2(const Job *job, size_t begin, size_t end)
{
    run_range(job, begin, end);
}
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) static void range_avx512(const Job *job, size_t begin,
                                                                                     size_t end)
{
    run_range(job, begin, end);
}
#endif

typedef void (*Range)(const Job *, size_t, size_t);

static int supported_level(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2")) return 1;
#endif
    return 0;
}

static Range range_for(int level)
{
#if defined(__x86_64__) && defined(__GNUC__)
    if (level == 2) return range_avx512;
    if (level == 1) return range_avx2;
#endif
    (void)level;
    return range_baseline;
}

typedef struct {
    const Job *job;
    Range range;
    size_t begin, end;
} Part;

static void *run_part(void *argument)
{
    Part *part = argument;
    part->range(part->job, part->begin, part->end);
    return NULL;
}

static void run(const Job *job, int threads, int level)
{
    size_t most = job->count / MIN_PER_THREAD;
    size_t parts = (size_t)(threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads);
    parts = parts < most ? parts : most ? most : 1;
    Range range = range_for(level);
    Part part[MAX_THREADS];
    pthread_t thread[MAX_THREADS];
    int started[MAX_THREADS] = {0};
    size_t length = (job->count / parts + TILE - 1) / TILE * TILE;
    for (size_t p = 0; p < parts; p++) {
        size_t begin = p * length < job->count ? p * length : job->count;
        size_t end = p + 1 == parts || begin + length > job->count ? job->count : begin + length;
        part[p] = (Part){job, range, begin, end};
        if (p) started[p] = pthread_create(&thread[p], NULL, run_part, &part[p]) == 0;
    }
    run_part(&part[0]);
    for (size_t p = 1; p < parts; p++) {
        if (started[p]) pthread_join(thread[p], NULL);
        else run_part(&part[p]);        /* no thread to be had: the work is still done */
    }
}

/* fill(task, out, mu, log_sigma, grad, keep, count, key, step, sample, block, skip, sign, threads, level), addresses as
 * int: fills out with count elements; inputs that the task does not read may be 0. noise.py is the only caller. */
static PyObject *fill(PyObject *self, PyObject *args)
{
    int task, threads, level;
    unsigned long long out, mu, log_sigma, grad, keep, count, key, block;
    unsigned int step, sample, skip;
    float sign;
    (void)self;
    if (!PyArg_ParseTuple(args, "iKKKKKKKIIKIfii", &task, &out, &mu, &log_sigma, &grad, &keep, &count, &key, &step,
                          &sample, &block, &skip, &sign, &threads, &level))
        return NULL;
    if (task < WORDS || task > PULL || level < 0 || level > supported_level())
        return PyErr_Format(PyExc_ValueError, "task %d must be 0..3 and level %d must be 0..%d on this CPU", task, level,
                            supported_level());
    const float *mus = (const float *)(uintptr_t)mu, *log_sigmas = (const float *)(uintptr_t)log_sigma;
    size_t end = (size_t)count;
    Job job = {.task = (Task)task,
               .stream = {(uint32_t)key, (uint32_t)(key >> 32), step, sample},
               .block = block,
               .skip = skip,
               .count = (size_t)count,
               .sign = sign,
               .out = (void *)(uintptr_t)out,
               .mu = &mus,
               .log_sigma = &log_sigmas,
               .end = &end,
               .grad = (const float *)(uintptr_t)grad,
               .keep = (float *)(uintptr_t)keep};
    Py_BEGIN_ALLOW_THREADS
    run(&job, threads, level);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* One number of a list of Python's; -1 with an exception set is left to PyErr_Occurred. */
static unsigned long long number(PyObject *list, Py_ssize_t i)
{
    return PyLong_AsUnsignedLongLong(PyList_GET_ITEM(list, i));
}

/* rows(task, out, keep, grad, pitch, mus, mu_pitch, log_sigmas, counts, key, step, samples, signs, block, skip, threads,
 * level): DRAW fills the row of each sample in out, and in keep unless that is 0, PULL fills the one row out with the sum
 * over the rows of grad. Rows lie pitch elements apart. mus, log_sigmas and counts are lists with the addresses and
 * elements of the tensors that a row consists of; the mus of a sample lie mu_pitch behind those of the one before. */
static PyObject *rows(PyObject *self, PyObject *args)
{
    int task, threads, level;
    unsigned long long out, keep, grad, pitch, mu_pitch, key, block;
    unsigned int step, skip;
    PyObject *mus, *log_sigmas, *counts, *samples, *signs;
    (void)self;
    if (!PyArg_ParseTuple(args, "iKKKKO!KO!O!KIO!O!KIii", &task, &out, &keep, &grad, &pitch, &PyList_Type, &mus, &mu_pitch,
                          &PyList_Type, &log_sigmas, &PyList_Type, &counts, &key, &step, &PyList_Type, &samples,
                          &PyList_Type, &signs, &block, &skip, &threads, &level))
        return NULL;
    Py_ssize_t tensors = PyList_GET_SIZE(log_sigmas), own = PyList_GET_SIZE(samples);
    if ((task != DRAW && task != PULL) || level < 0 || level > supported_level() || PyList_GET_SIZE(counts) != tensors ||
        PyList_GET_SIZE(mus) != (task == DRAW ? tensors : 0) || PyList_GET_SIZE(signs) != own)
        return PyErr_Format(PyExc_ValueError, "rows: task %d of %zd tensors, level %d", task, tensors, level);
    const float **pointers = malloc((size_t)(2 * tensors + 1) * sizeof *pointers);
    size_t *end = malloc((size_t)(tensors + 1) * sizeof *end);
    Stream *streams = malloc((size_t)(own + 1) * sizeof *streams);
    float *sign = malloc((size_t)(own + 1) * sizeof *sign);
    if (!pointers || !end || !streams || !sign) PyErr_NoMemory();
    size_t count = 0;
    for (Py_ssize_t t = 0; t < tensors && !PyErr_Occurred(); t++) {
        if (task == DRAW) pointers[t] = (const float *)(uintptr_t)number(mus, t);
        pointers[tensors + t] = (const float *)(uintptr_t)number(log_sigmas, t);
        count += (size_t)number(counts, t);
        end[t] = count;
    }
    for (Py_ssize_t s = 0; s < own && !PyErr_Occurred(); s++) {
        streams[s] = (Stream){(uint32_t)key, (uint32_t)(key >> 32), step, (uint32_t)number(samples, s)};
        sign[s] = (float)PyFloat_AsDouble(PyList_GET_ITEM(signs, s));
    }
    if (!PyErr_Occurred() && count) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t s = 0; s < own; s++) {
            size_t row = (size_t)s * pitch;
            Job job = {.task = (Task)task,
                       .stream = streams[s],
                       .block = block,
                       .skip = skip,
                       .count = count,
                       .sign = sign[s],
                       .add = s > 0,
                       .out = (float *)(uintptr_t)out + (task == DRAW ? row : 0),
                       .mu = pointers,
                       .log_sigma = pointers + tensors,
                       .end = end,
                       .grad = grad ? (const float *)(uintptr_t)grad + row : NULL,
                       .keep = keep ? (float *)(uintptr_t)keep + row : NULL};
            run(&job, threads, level);
            for (Py_ssize_t t = 0; task == DRAW && t < tensors; t++) pointers[t] += mu_pitch;
        }
        Py_END_ALLOW_THREADS
    }
    free(pointers);
    free(end);
    free(streams);
    free(sign);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

static PyObject *level(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    return PyLong_FromLong(supported_level());
}

static PyMethodDef methods[] = {
    {"fill", fill, METH_VARARGS, "Make words, normals, a weight draw or its pull-back on contiguous float32 memory."},
    {"rows", rows, METH_VARARGS, "Draw or pull the rows of several samples, each of several float32 tensors."},
    {"level", level, METH_NOARGS, "Highest instruction level of this CPU: 0 baseline, 1 AVX2, 2 AVX-512."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_noise", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__noise(void) { return PyModule_Create(&module); }
