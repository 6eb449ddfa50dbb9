package rig;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;

/** One engine node with its REST interface; everything that differs between nodes is configuration. */
@SpringBootApplication
public class Node {
    public static void main(String[] arguments) {
        SpringApplication.run(Node.class, arguments);
    }
}
