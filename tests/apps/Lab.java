// The model server for Tomcat: the query's `do` chooses, the log tells what happened.

import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;

public class Lab extends HttpServlet {
    private static FileOutputStream log;

    // Paths of the lab need no escaping; System.nanoTime() is the monotonic clock.
    private static synchronized void say(String what, String path) throws IOException {
        String quoted = path == null ? "null" : "\"" + path + "\"";
        String line = String.format("{\"what\":\"%s\",\"path\":%s,\"t\":%d,\"pid\":%d}%n",
            what, quoted, System.nanoTime(), ProcessHandle.current().pid());
        log.write(line.getBytes(StandardCharsets.UTF_8));
    }

    private static int number(HttpServletRequest request, String name, int otherwise) {
        String value = request.getParameter(name);
        return value == null ? otherwise : Integer.parseInt(value);
    }

    private static void rest(HttpServletRequest request) {
        try {
            Thread.sleep(number(request, "ms", 0));
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
        }
    }

    @Override
    public void init() throws ServletException {
        try {
            log = new FileOutputStream(System.getenv("APP_LOG"), true);
            say("loaded", null);
        } catch (IOException error) {
            throw new ServletException(error);
        }
    }

    @Override
    protected void service(HttpServletRequest request, HttpServletResponse response)
            throws IOException {
        String path = request.getRequestURI();
        String act = request.getParameter("do");
        say("read", path);
        if ("reject".equals(act)) {
            // What is left of the body is more than Tomcat reads for nobody.
            response.setStatus(413);
            return;
        }
        if ("neglect".equals(act)) {
            rest(request);
        }
        if (!"spurn".equals(act)) {
            request.getInputStream().readAllBytes();
        }
        if ("close".equals(act) || "spurn".equals(act)) {
            // Tomcat survives it and says nothing to the client.
            throw new OutOfMemoryError("as it was asked");
        }
        rest(request);
        if ("big-head".equals(act)) {
            String filler = "a".repeat(1000);
            for (int field = 0; field < 120; field++) {
                response.addHeader("X-Filler", filler);
            }
        }
        response.setStatus(number(request, "status", 200));
        response.setContentLength(3);
        response.getOutputStream().print("ok\n");
        say("answered", path);
    }
}
