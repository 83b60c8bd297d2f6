/* An HTTP server as small as they get: answers each request with its length, its own user id and where it runs. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16)) return 1;
    for (int calls = 1;; calls++) {
        char request[65536] = "", body[1024], cwd[256] = "";
        int client = accept(listener, NULL, NULL), total = 0, got;
        char *end = NULL;
        /* The head, and as much behind it as it says. */
        while (!(end && request + total - end - 4 >= atoi(strstr(request, "Content-Length: ") + 16)) &&
               (got = read(client, request + total, sizeof request - 1 - total)) > 0) {
            total += got;
            request[total] = 0;
            end = strstr(request, "\r\n\r\n");
        }
        int fails = end && strstr(end, "fail") != NULL;
        getcwd(cwd, sizeof cwd);
        int length = snprintf(body, sizeof body, "{\"calls\": %d, \"uid\": %d, \"cwd\": \"%s\", \"input\": %s}", calls,
                              (int)getuid(), cwd, end ? end + 4 : "null");
        dprintf(client, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                fails ? "422 Unprocessable" : "200 OK", length, body);
        close(client);
    }
}
