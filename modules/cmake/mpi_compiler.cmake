# check_mpi_compiler(COMPILER ADVICE): fails unless COMPILER compiles and links a program of MPI. Cray's
# wrapper is called cc, and so is every machine's plain C compiler: the name alone proves nothing, and
# without this check the build would fail minutes later, in mpi4py.
function(check_mpi_compiler compiler advice)
  set(work ${PROJECT_BINARY_DIR}/mpi_compiler)
  file(WRITE ${work}/check.c [[
#include <mpi.h>
int main(int argc, char **argv) { MPI_Init(&argc, &argv); return MPI_Finalize(); }
]])
  execute_process(COMMAND ${compiler} ${work}/check.c -o ${work}/check
    RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code STREQUAL "0")
    string(REGEX MATCH "[^\n]*[Ee]rror[^\n]*" why "${output}")
    unset(HPC_BNN_MPICC CACHE)   # so that the next configure looks again
    message(FATAL_ERROR "MPI compiler: ${compiler} compiles no program of MPI (${why}). ${advice}")
  endif()
endfunction()
