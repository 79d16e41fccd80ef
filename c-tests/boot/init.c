/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * init.c - the first program of an emulated machine, which has nothing else: it runs each line of /run as
 * a command, says how each ended, and switches the machine off.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS = 32 };

static void mounted(const char *what, const char *where)
{
	mkdir(where, 0755);
	if (mount(what, where, what, 0, NULL) != 0)
		perror(where);
}

/* The status of a command, as a shell has it. What it says is passed on, so that it is not to a terminal. */
static int run(char *line)
{
	char *words[WORDS + 1] = { NULL }, said[4096];
	int n = 0, status, pipes[2];
	ssize_t length;
	pid_t child;

	if (pipe(pipes) != 0)
		return 126;
	for (char *word = strtok(line, " "); word && n < WORDS; word = strtok(NULL, " "))
		words[n++] = word;
	child = fork();
	if (child == 0) {
		dup2(pipes[1], STDOUT_FILENO);
		dup2(pipes[1], STDERR_FILENO);
		close(pipes[0]);
		close(pipes[1]);
		execv(words[0], words);
		perror(words[0]);
		_exit(127);
	}
	close(pipes[1]);
	while ((length = read(pipes[0], said, sizeof(said))) > 0)
		fwrite(said, 1, (size_t)length, stdout);
	close(pipes[0]);
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 126;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(void)
{
	struct utsname system;
	char line[1024];
	FILE *list;

	mounted("proc", "/proc");
	mounted("sysfs", "/sys");
	mounted("devtmpfs", "/dev");
	mkdir("/tmp", 01777);
	mounted("tmpfs", "/dev/shm");
	setenv("PATH", "/", 1);
	uname(&system);
	printf("== %s, Linux %s, %ld CPUs\n", system.machine, system.release, sysconf(_SC_NPROCESSORS_ONLN));
	list = fopen("/run", "r");
	while (list && fgets(line, sizeof(line), list)) {
		line[strcspn(line, "\n")] = '\0';
		printf("== run %s\n", line);
		fflush(NULL);
		printf("== status %d\n", run(line));
		fflush(NULL);
	}
	puts("== end");
	fflush(NULL);
	reboot(RB_POWER_OFF);
	return 1;
}
