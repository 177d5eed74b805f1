/* fuzz_replay.c - runs a fuzz target over the files named on the command line, without a fuzzer. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    static uint8_t buffer[1 << 16];

    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL)
            return perror(argv[i]), 1;
        LLVMFuzzerTestOneInput(buffer, fread(buffer, 1, sizeof buffer, file));
        fclose(file);
    }
    printf("%d inputs\n", argc - 1);
    return argc < 2; /* nothing was tried */
}
