import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Stays up: one line of JSON in per call, one line of JSON out. */
public class Hello {
    /** For inputs without escapes; a real function would bring a JSON library in its jar. */
    private static final Pattern NAME = Pattern.compile("\"name\"\\s*:\\s*\"([^\"\\\\]*)\"");

    public static void main(String[] arguments) throws Exception {
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int calls = 0;
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            calls++;
            Matcher event = NAME.matcher(line);
            if (event.find()) {
                String answer = "{\"output\": {\"message\": \"Hello, %s!\", \"calls\": %d}}%n";
                System.out.printf(answer, event.group(1), calls);
            } else {
                System.out.println("{\"error\": \"give the input a name\"}");
            }
        }
    }
}
