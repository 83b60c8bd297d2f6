import scala.io.Source

/** Stays up: one line of JSON in per call, one line of JSON out. */
object Hello {
  /** For inputs without escapes; a real function would bring a JSON library in its jar. */
  private val Name = "\"name\"\\s*:\\s*\"([^\"\\\\]*)\"".r

  def main(arguments: Array[String]): Unit =
    for ((line, index) <- Source.fromInputStream(System.in, "UTF-8").getLines.zipWithIndex)
      Name.findFirstMatchIn(line).map(_.group(1)) match {
        case Some(name) => println(s"""{"output": {"message": "Hello, $name!", "calls": ${index + 1}}}""")
        case None       => println("""{"error": "give the input a name"}""")
      }
}
