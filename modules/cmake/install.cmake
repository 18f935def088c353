# Installs what was built where others can use it, independent of the build and the source folder:
#
#   cmake --install build --prefix FOLDER
#
#   FOLDER/env   FOLDER/jobscripts   FOLDER/modules   FOLDER/modulefiles-tcl
#
# relocatable.py says how. Nothing is downloaded.
cmake_minimum_required(VERSION 3.25)
include(${CMAKE_CURRENT_LIST_DIR}/site.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/render.cmake)
if(NOT "$ENV{DESTDIR}" STREQUAL "")
  message(FATAL_ERROR "DESTDIR = '$ENV{DESTDIR}': the environment holds full paths; use --prefix alone.")
endif()

set(from ${BUILD}/env)
set(to ${PREFIX}/env)
if(NOT EXISTS ${from}/stamps/package)
  message(FATAL_ERROR "${from}: not built; run `cmake --build ${BUILD} -t env` first.")
endif()
if(EXISTS ${to} AND NOT EXISTS ${to}/pyvenv.cfg)
  message(FATAL_ERROR "${to}: exists and is no virtual environment; choose another --prefix.")
endif()
if(to STREQUAL from)
  message(FATAL_ERROR "${PREFIX}: is the build folder; choose another --prefix.")
endif()

message(STATUS "Installing: ${to}")
file(REMOVE_RECURSE ${to})
file(MAKE_DIRECTORY ${PREFIX})
execute_process(COMMAND ${from}/bin/python ${CMAKE_CURRENT_LIST_DIR}/relocatable.py
  ${from} ${to} ${HPC_BNN_SOURCE} COMMAND_ERROR_IS_FATAL ANY)

render_site(${PREFIX})
message(STATUS "Installed. To use it: module use ${PREFIX}/modules (environment-modules: "
  "${PREFIX}/modulefiles-tcl); module load hpc_bnn")
