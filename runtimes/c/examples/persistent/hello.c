/* Stays up: one line of JSON in per call, one line of JSON out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The text after "name":, for inputs without escapes; a real function would take a JSON library. */
static const char *name_in(char *json) {
    char *key = strstr(json, "\"name\"");
    char *start = key ? strchr(key + 6, '"') : NULL;
    char *end = start ? strchr(start + 1, '"') : NULL;
    if (!end)
        return NULL;
    *end = '\0';
    return start + 1;
}

int main(void) {
    char *line = NULL;
    size_t size = 0;
    for (int calls = 1; getline(&line, &size, stdin) > 0; calls++) {
        const char *name = name_in(line);
        if (name)
            printf("{\"output\": {\"message\": \"Hello, %s!\", \"calls\": %d}}\n", name, calls);
        else
            printf("{\"error\": \"give the input a name\"}\n");
        fflush(stdout);
    }
    free(line);
    return EXIT_SUCCESS;
}
