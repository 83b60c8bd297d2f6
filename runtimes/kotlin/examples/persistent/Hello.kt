/** For inputs without escapes; a real function would bring a JSON library in its jar. */
private val name = Regex(""""name"\s*:\s*"([^"\\]*)"""")

/** Stays up: one line of JSON in per call, one line of JSON out. */
fun main() {
    var calls = 0
    while (true) {
        val line = readlnOrNull() ?: break
        calls++
        val greeted = name.find(line)?.groupValues?.get(1)
        println(
            if (greeted != null) """{"output": {"message": "Hello, $greeted!", "calls": $calls}}"""
            else """{"error": "give the input a name"}"""
        )
    }
}
