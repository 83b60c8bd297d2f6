#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Echoes its input, or does what it says. */
int main(int count, char **arguments) {
    char text[1024] = "";
    FILE *file = count > 1 ? fopen(arguments[1], "r") : NULL;
    if (!file || !fread(text, 1, sizeof text - 1, file)) return 1;
    if (strstr(text, "loop")) for (volatile int n = 0;; n++) {}
    if (strstr(text, "allocate"))
        for (int n = 0; n < 512; n++) {
            char *block = malloc(1 << 20);
            if (!block) return 2;
            memset(block, n + 1, 1 << 20);
        }
    puts(text);
    return 0;
}
