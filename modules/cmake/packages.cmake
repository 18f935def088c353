# Where pip takes packages from: a package index, or with -D WHEELS=FOLDER that folder alone, for machines
# without a way to the internet. Fill it where there is one, on the same kind of machine:
#
#   cmake --build build -t wheels        fills build/wheels
#
# Sets HPC_BNN_PIP_SOURCE, options of pip for everything but torch, and HPC_BNN_TORCH_SOURCE, for all.
set(HPC_BNN_PIP_SOURCE "")
set(HPC_BNN_TORCH_SOURCE ${HPC_BNN_TORCH_PIP_OPTIONS})
if(WHEELS)
  cmake_path(ABSOLUTE_PATH WHEELS NORMALIZE OUTPUT_VARIABLE wheel_folder)
  set(HPC_BNN_PIP_SOURCE --no-index --find-links ${wheel_folder})
  set(HPC_BNN_TORCH_SOURCE ${HPC_BNN_PIP_SOURCE})
endif()

# check_packages(PYTHON REQUIREMENTS): fails where the folder lacks a package, or no index answers.
function(check_packages python requirements)
  include(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/horovod_release.cmake)
  set(check ${python} ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/check_packages.py)
  if(WHEELS)
    set(check ${check} folder ${wheel_folder} ${requirements} horovod==${horovod_version})
  else()
    set(check ${check} index)
  endif()
  execute_process(COMMAND ${check} RESULT_VARIABLE code ERROR_VARIABLE why ERROR_STRIP_TRAILING_WHITESPACE)
  if(NOT code STREQUAL "0")
    message(FATAL_ERROR "${why}")
  endif()
endfunction()

# add_wheels_target(REQUIREMENTS STAMP): a target that fills build/wheels, once STAMP (an environment) is there.
function(add_wheels_target requirements stamp)
  include(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/horovod_release.cmake)
  set(folder ${PROJECT_BINARY_DIR}/wheels)
  set(fetch ${HPC_BNN_PYTHON} -m pip --disable-pip-version-check download --quiet --dest ${folder})
  set(horovod ${PROJECT_BINARY_DIR}/wheels-horovod.txt)
  file(WRITE ${horovod} "horovod==${horovod_version} --hash=sha256:${horovod_sha256}\n")
  set(fetch_mpi4py "")
  if(HPC_BNN_MPI STREQUAL "system")   # compiled against that MPI, so from its source
    set(fetch_mpi4py COMMAND ${fetch} --no-deps --no-binary mpi4py --constraint ${requirements} mpi4py)
  endif()
  add_custom_target(wheels
    COMMAND ${fetch} ${HPC_BNN_TORCH_PIP_OPTIONS} --requirement ${requirements}
    ${fetch_mpi4py}
    COMMAND ${fetch} --no-deps --no-binary :all: --no-build-isolation --require-hashes --requirement ${horovod}
    COMMAND ${CMAKE_COMMAND} -E echo "-- Wheels: ${folder}; elsewhere: cmake -B build -D SITE=${SITE} -D WHEELS=FOLDER"
    DEPENDS ${stamp} VERBATIM)
endfunction()
