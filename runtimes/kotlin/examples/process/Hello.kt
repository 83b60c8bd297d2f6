import java.io.File

/** For inputs without escapes; a real function would bring a JSON library in its jar. */
private val name = Regex(""""name"\s*:\s*"([^"\\]*)"""")

/** The input is in the file named by the first argument; the last line of the output is the result. */
fun main(arguments: Array<String>) {
    val event = File(arguments[0]).readText()
    val greeted = name.find(event)?.groupValues?.get(1) ?: "world"
    System.err.println("saying hello")
    println("""{"message": "Hello, $greeted!"}""")
}
