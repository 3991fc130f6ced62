import java.io.File;
import java.net.InetSocketAddress;
import java.util.Arrays;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.eclipse.jgit.http.server.GitServlet;
import org.eclipse.jgit.transport.ReceiveCommand.Result;
import org.eclipse.jgit.transport.ReceivePack;
import org.eclipse.jgit.transport.resolver.FileResolver;

/** JGit's HTTP server, the library inside Gerrit: FOLDER PORT. A ref that `testbed.protected` names is declined. */
public class JgitServer {
    public static void main(String[] arguments) throws Exception {
        var git = new GitServlet();
        git.setRepositoryResolver(new FileResolver<>(new File(arguments[0]), true));
        git.setReceivePackFactory((request, repository) -> {
            var pack = new ReceivePack(repository);
            pack.setPreReceiveHook((receiving, commands) -> {
                var kept = Arrays.asList(repository.getConfig().getStringList("testbed", null, "protected"));
                for (var command : commands)
                    if (kept.contains(command.getRefName())) {
                        receiving.sendMessage("plant: " + command.getRefName() + " is protected");
                        command.setResult(Result.REJECTED_OTHER_REASON, "prohibited by the plant: not permitted: update");
                    }
            });
            return pack;
        });
        var context = new ServletContextHandler();
        context.addServlet(new ServletHolder(git), "/*");
        var server = new Server(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[1])));
        server.setHandler(context);
        server.start();
        server.join();
    }
}
