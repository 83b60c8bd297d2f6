/* The input is in the file named by the first argument; the last line of the output is the result. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The text after "name":, for inputs without escapes; a real function would take a JSON library. */
static const char *name_in(char *json) {
    char *key = strstr(json, "\"name\"");
    char *start = key ? strchr(key + 6, '"') : NULL;
    char *end = start ? strchr(start + 1, '"') : NULL;
    if (!end)
        return "world";
    *end = '\0';
    return start + 1;
}

int main(int argc, char **argv) {
    static char input[65536];
    FILE *file = argc > 1 ? fopen(argv[1], "r") : NULL;
    if (!file) {
        perror(argc > 1 ? argv[1] : "no input file");
        return EXIT_FAILURE;
    }
    size_t length = fread(input, 1, sizeof input - 1, file);
    input[length] = '\0';
    fclose(file);

    fprintf(stderr, "saying hello\n");
    printf("{\"message\": \"Hello, %s!\"}\n", name_in(input));
    return EXIT_SUCCESS;
}
