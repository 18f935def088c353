# Builds Horovod for build/env, or takes the wheel that an earlier build left in the user's cache.
#
#   cmake -D SITE=... -D MPI=... -D WHEELS=... -D BUILD=... -D PYTHON=... -P modules/cmake/horovod.cmake
#
# The last release, 0.28.1, compiles as C++14, which torch has not accepted since 2.1; the fix is merged
# (horovod/horovod, pull request 3998) and was never released. So the source archive is pinned by its
# hash, the three files that name a standard by theirs, and those lines are patched.
cmake_minimum_required(VERSION 3.25)
include(${CMAKE_CURRENT_LIST_DIR}/site.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/horovod_release.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/packages.cmake)

set(version ${horovod_version})
set(archive_sha256 ${horovod_sha256})
set(work ${BUILD}/horovod)
set(pip ${PYTHON} -m pip --disable-pip-version-check)

function(ask_python result code)
  execute_process(COMMAND ${PYTHON} -c "${code}" OUTPUT_VARIABLE answer
    OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  set(${result} "${answer}" PARENT_SCOPE)
endfunction()

# --- What to build, and where its wheel is kept ------------------------------------------------------
ask_python(torch "import torch; print(torch.__version__)")
ask_python(python "import sysconfig as s; print(s.get_config_var('SOABI'), s.get_platform())")
set(cxx_standard 17)
if(torch VERSION_GREATER_EQUAL 2.14)
  set(cxx_standard 20)
endif()

# Libraries are found from Horovod's own place in the environment (horovod/torch in site-packages), so
# that a cached wheel never loads another build's MPI. The system's MPI stays where it was found.
set(mpi ${HPC_BNN_MPI})
set(rpath [[$ORIGIN/../../torch/lib;$ORIGIN/../../nvidia/nccl/lib;$ORIGIN/../../../..]])
set(rpath_of_system_libraries OFF)
if(HPC_BNN_MPI STREQUAL "system")
  find_program(mpicxx NAMES mpicxx mpic++ CC REQUIRED)
  ask_python(mpi "import mpi4py; mpi4py.rc.initialize = False
from mpi4py import MPI; print(MPI.Get_library_version().splitlines()[0])")
  string(PREPEND mpi "${mpicxx} ")
  set(rpath_of_system_libraries ON)
endif()

list(JOIN HPC_BNN_HOROVOD_OPTIONS " " options)
set(identity "Horovod ${version} ${archive_sha256}
C++${cxx_standard}, RPATH ${rpath}
torch ${torch}
MPI ${mpi}
Python ${python}
options ${options}
")
string(SHA256 key "${identity}")
string(SUBSTRING ${key} 0 16 key)
cmake_path(SET cache "$ENV{HOME}/.cache")
if(NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
  cmake_path(SET cache "$ENV{XDG_CACHE_HOME}")
endif()
cmake_path(APPEND cache hpc_bnn wheels)
set(kept ${cache}/${key})

# --- Build -------------------------------------------------------------------------------------------
# patch(FILE SHA256 OLD NEW): replaces a line of a file that must be the one this was written for.
function(patch file sha256 old new)
  set(path ${source}/${file})
  file(SHA256 ${path} found)
  if(NOT found STREQUAL sha256)
    message(FATAL_ERROR "${path}: sha256 is ${found}, expected ${sha256}: this is not the file of "
      "Horovod ${version} that `${old}` is patched in. Read the file and update modules/cmake/horovod.cmake.")
  endif()
  file(READ ${path} text)
  string(REPLACE "${old}" "${new}" patched "${text}")
  file(WRITE ${path} "${patched}")
endfunction()

function(run_logged log)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_FILE ${log} ERROR_FILE ${log})
  if(code)
    # pip ends with its own advice; what went wrong stands somewhere above it.
    file(STRINGS ${log} lines REGEX "[Ee]rror|ERROR|NOTFOUND|No such file" LIMIT_COUNT 15)
    list(JOIN lines "\n" lines)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "Horovod ${version}: failed with ${code}: ${command}\n${lines}\nAll of it: ${log}")
  endif()
endfunction()

# Compiling a file against torch takes about 2 GB, so memory limits the jobs as well as cores do.
function(count_jobs result)
  set(jobs $ENV{CMAKE_BUILD_PARALLEL_LEVEL})
  if(NOT jobs)
    cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
    cmake_host_system_information(RESULT memory_mib QUERY TOTAL_PHYSICAL_MEMORY)
    math(EXPR jobs "${memory_mib} / 2048")
    if(jobs GREATER cores)
      set(jobs ${cores})
    endif()
    if(jobs LESS 1)
      set(jobs 1)
    endif()
  endif()
  set(${result} ${jobs} PARENT_SCOPE)
endfunction()

# Gives Horovod the NCCL that torch itself loads: two NCCLs in one process do not work together.
function(link_nccl_of_torch result)
  ask_python(nccl "import nvidia.nccl as n; print(list(n.__path__)[0])")
  file(MAKE_DIRECTORY ${work}/nccl/lib)
  file(CREATE_LINK ${nccl}/include ${work}/nccl/include SYMBOLIC)
  file(CREATE_LINK ${nccl}/lib/libnccl.so.2 ${work}/nccl/lib/libnccl.so SYMBOLIC)
  set(${result} HOROVOD_NCCL_HOME=${work}/nccl HOROVOD_NCCL_LINK=SHARED PARENT_SCOPE)
endfunction()

function(build)
  if(BUILD MATCHES " ")
    message(FATAL_ERROR "Horovod ${version}: cannot be compiled in '${BUILD}': MPI's compiler wrapper does "
      "not quote the space. Build once in a folder without a space; this one then takes the wheel "
      "from ${cache}.")
  endif()
  file(REMOVE_RECURSE ${work})
  file(WRITE ${work}/horovod.txt "horovod==${version} --hash=sha256:${archive_sha256}\n")
  run_logged(${work}/download.log ${pip} download ${HPC_BNN_PIP_SOURCE} --no-deps --no-binary :all: --no-build-isolation
    --require-hashes --requirement ${work}/horovod.txt --dest ${work})
  file(ARCHIVE_EXTRACT INPUT ${work}/horovod-${version}.tar.gz DESTINATION ${work})

  set(source ${work}/horovod-${version})
  patch(CMakeLists.txt bd359fa17a149c61030e3b64cedd6c7237ddccd1b4f20acc900adda013e60a9a
    "set(CMAKE_CXX_STANDARD 14)"
    "set(CMAKE_CXX_STANDARD ${cxx_standard})
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ${rpath_of_system_libraries})
set(CMAKE_INSTALL_RPATH [[${rpath}]])")
  patch(horovod/torch/CMakeLists.txt 5e5ba9ee3e32ef26b58f0e2af1236098c674b39a8d5825b32942a3173dead6fc
    "set(CMAKE_CXX_STANDARD 14)" "set(CMAKE_CXX_STANDARD ${cxx_standard})")
  patch(horovod/common/ops/cuda/CMakeLists.txt
    b2dfbc672deaafeda6eec71742edd0fb3651e225b8d959248774ab06b0ff9386
    "set(CMAKE_CUDA_STANDARD 11)" "set(CMAKE_CUDA_STANDARD 17)")

  count_jobs(jobs)
  set(nccl "")
  if(HPC_BNN_ACCELERATOR STREQUAL "cuda" AND options MATCHES "=NCCL")
    link_nccl_of_torch(nccl)
  endif()
  cmake_path(GET PYTHON PARENT_PATH bin)
  message(STATUS "Horovod ${version}: compiling as C++${cxx_standard} with ${jobs} jobs, some minutes; "
    "progress in ${work}/build.log")
  # gloo is left out: nothing here uses it, and its CMake files are too old for CMake 4.
  run_logged(${work}/build.log ${CMAKE_COMMAND} -E env --unset=MAKELEVEL --unset=MFLAGS
    PATH=${bin}:$ENV{PATH} MAKEFLAGS=-j${jobs} HOROVOD_CMAKE=${CMAKE_COMMAND}
    HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1
    HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1 ${nccl} ${HPC_BNN_HOROVOD_OPTIONS}
    ${pip} wheel --verbose --no-deps --no-build-isolation --no-cache-dir
    --wheel-dir ${work}/wheel ${source})
  file(WRITE ${work}/wheel/built_for.txt "${identity}")
endfunction()

# A folder appears in the cache whole or not at all: two builds may run at once.
function(keep)
  string(RANDOM LENGTH 8 unique)
  set(partial ${cache}/.${key}-${unique})
  execute_process(COMMAND ${CMAKE_COMMAND} -E copy_directory ${work}/wheel ${partial}
    RESULT_VARIABLE code ERROR_VARIABLE why)
  if(code)
    message(WARNING "Horovod ${version}: not kept for later builds, ${cache} cannot be written: ${why}")
    return()
  endif()
  file(RENAME ${partial} ${kept} RESULT code)
  if(code)
    file(REMOVE_RECURSE ${partial})   # another build was first
  endif()
endfunction()

file(GLOB wheel ${kept}/horovod-*.whl)
if(wheel)
  message(STATUS "Horovod ${version}: using ${wheel}")
else()
  build()
  keep()
  file(GLOB wheel ${work}/wheel/horovod-*.whl)
endif()

# --- Install and prove -------------------------------------------------------------------------------
execute_process(COMMAND ${pip} install --quiet --no-deps --force-reinstall ${wheel}
  COMMAND_ERROR_IS_FATAL ANY)
set(must_have mpi)
if(options MATCHES "=NCCL")
  list(APPEND must_have nccl)
endif()
if(NOT HPC_BNN_MPI STREQUAL "system")
  list(APPEND must_have libmpi-of-environment)
endif()
execute_process(COMMAND ${PYTHON} ${CMAKE_CURRENT_LIST_DIR}/check_horovod.py ${must_have}
  RESULT_VARIABLE code)
if(code)
  message(FATAL_ERROR "Horovod ${version}: the wheel ${wheel} is not what this site needs (see above). "
    "If it should be, remove ${kept} and build again.")
endif()
