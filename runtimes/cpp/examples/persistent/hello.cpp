// Stays up: one line of JSON in per call, one line of JSON out.
#include <iostream>
#include <regex>
#include <string>

int main() {
    // For inputs without escapes; a real function would take a JSON library.
    static const std::regex name{R"re("name"\s*:\s*"([^"\\]*)")re"};
    std::string line;
    for (int calls = 1; std::getline(std::cin, line); calls++) {
        std::smatch found;
        if (std::regex_search(line, found, name))
            std::cout << R"({"output": {"message": "Hello, )" << found[1] << R"(!", "calls": )" << calls << "}}" << std::endl;
        else
            std::cout << R"({"error": "give the input a name"})" << std::endl;
    }
}
