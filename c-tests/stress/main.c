/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * module-ref-stress - threads call into shared objects while others unload them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/oracle.h"
#include "../lib/process.h"
#include "stress.h"

enum { EXIT_VIOLATIONS = 1, EXIT_TROUBLE = 2, EXIT_INTERRUPTED = 130 };

static const char usage[] =
	"Usage: module-ref-stress [OPTION]...\n"
	"Worker threads call into shared objects while other threads unload, reload and\n"
	"replace them. No thread is stopped, and nothing may break.\n"
	"\n"
	"  -t, --threads=N     worker threads (default: twice the CPUs, 4 at least)\n"
	"  -u, --unloaders=N   threads that unload and reload (default: 2)\n"
	"  -s, --seconds=S     length of each run (default: 10)\n"
	"  -l, --layer=LAYER   host: the module host loads, unloads, replaces and forces\n"
	"                      out modules with dependencies; counter: the program opens\n"
	"                      and closes plugins itself, by counters; or both\n"
	"                      (default: host; with --compare both)\n"
	"  -m, --mode=MODE     how references are counted: atomic, percpu or both\n"
	"                      (default: percpu)\n"
	"  -p, --plugin=FILE   unload this shared object instead of the default ones, the\n"
	"                      sample plugin and the system's libz; may be repeated\n"
	"      --symbol=NAME   the function to call in the last --plugin: sample_answer\n"
	"                      and crc32 are known; any other is called as long\n"
	"                      NAME(void) and must always answer as it did first\n"
	"      --seed=N        for the random choices (default: from the clock)\n"
	"      --bad           the first unloader has plugins that leave something\n"
	"                      behind: a thread, a timer, a destructor, a callback ...;\n"
	"                      each must be reported, and unmapped once that is gone\n"
	"      --compare       the same run under stop-the-world by signals and under the\n"
	"                      Linux patch's plain CAS counter\n"
	"      --json=FILE     write the results to FILE, - for standard output\n"
	"      --tap           print the results as TAP instead of a table\n"
	"  -h, --help          this text\n"
	"      --version       the version of the library\n"
	"\n"
	"Ctrl-C ends a run early and reports what there is. Exit status: 0 without a\n"
	"violation, 1 with one or after a crash, 2 if a run could not be made, 130 if it\n"
	"was ended early without a violation.\n"
	"\n"
	"Examples:\n"
	"  module-ref-stress --seconds 60 --threads 16       a longer run, more workers\n"
	"  module-ref-stress --plugin ./p.so --symbol run    your own plugin\n"
	"  module-ref-stress --bad                           plugins that misbehave\n"
	"  module-ref-stress --layer counter --json=-        for a machine to read\n";

static _Noreturn void trouble(const char *option, const char *value, const char *expected)
{
	fprintf(stderr, "module-ref-stress: %s '%s': expected %s; see --help\n", option, value,
		expected);
	exit(EXIT_TROUBLE);
}

static unsigned long long number(const char *option, const char *value, unsigned long long min,
				 unsigned long long max)
{
	unsigned long long n;
	char expected[96], *end;

	errno = 0;
	n = strtoull(value, &end, 0);
	if (errno || end == value || *end || strchr(value, '-') || n < min || n > max) {
		snprintf(expected, sizeof(expected), "a whole number from %llu to %llu", min, max);
		trouble(option, value, expected);
	}
	return n;
}

/* The plugins lie beside the program. */
static const char *beside(const char *name)
{
	static char paths[5][PATH_MAX];
	static size_t n;

	if (n == sizeof(paths) / sizeof(*paths) || !beside_program(paths[n], name))
		abort();
	return paths[n++];
}

/* A file in this folder is meant, if there is one; dlopen() would look for a name
 * without a slash in the library path alone. */
static const char *as_path(const char *file)
{
	char *path;

	if (strchr(file, '/') || access(file, F_OK) != 0 || !(path = malloc(strlen(file) + 3)))
		return file;
	sprintf(path, "./%s", file);
	return path;
}

static bool there(const char *library)
{
	void *handle = dlopen(library, RTLD_LAZY);

	return handle && dlclose(handle) == 0;
}

static void parse(int argc, char **argv, struct options *options)
{
	enum { SYMBOL = 256, SEED, BAD, COMPARE, JSON, TAP, VERSION };
	static const struct option known[] = {
		{ "threads", required_argument, NULL, 't' },
		{ "unloaders", required_argument, NULL, 'u' },
		{ "seconds", required_argument, NULL, 's' },
		{ "layer", required_argument, NULL, 'l' },
		{ "mode", required_argument, NULL, 'm' },
		{ "plugin", required_argument, NULL, 'p' },
		{ "symbol", required_argument, NULL, SYMBOL },
		{ "seed", required_argument, NULL, SEED },
		{ "bad", no_argument, NULL, BAD },
		{ "compare", no_argument, NULL, COMPARE },
		{ "json", required_argument, NULL, JSON },
		{ "tap", no_argument, NULL, TAP },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, VERSION },
		{ 0 },
	};
	char *end;
	int option;

	while ((option = getopt_long(argc, argv, "t:u:s:l:m:p:h", known, NULL)) != -1) {
		switch (option) {
		case 't':
			options->threads = (unsigned)number("--threads", optarg, 1, MAX_WORKERS);
			break;
		case 'u':
			options->unloaders = (unsigned)number("--unloaders", optarg, 1, 256);
			break;
		case 's':
			errno = 0;
			options->seconds = strtod(optarg, &end);
			if (errno || end == optarg || *end || !(options->seconds > 0) ||
			    options->seconds > 1e7)
				trouble("--seconds", optarg, "a number above 0");
			break;
		case 'l':
			options->layer_host = strcmp(optarg, "host") == 0 ||
					      strcmp(optarg, "both") == 0;
			options->layer_counter = strcmp(optarg, "counter") == 0 ||
						 strcmp(optarg, "both") == 0;
			if (!options->layer_host && !options->layer_counter)
				trouble("--layer", optarg, "host, counter or both");
			break;
		case 'm':
			options->mode_asked = true;
			options->mode_percpu = strcmp(optarg, "percpu") == 0 ||
					       strcmp(optarg, "both") == 0;
			options->mode_atomic = strcmp(optarg, "atomic") == 0 ||
					       strcmp(optarg, "both") == 0;
			if (!options->mode_atomic && !options->mode_percpu)
				trouble("--mode", optarg, "atomic, percpu or both");
			break;
		case 'p':
			if (options->nplugins == MAX_PLUGINS)
				trouble("--plugin", optarg, "no more than eight of them");
			options->plugins[options->nplugins++].file = as_path(optarg);
			break;
		case SYMBOL:
			if (options->nplugins == 0)
				trouble("--symbol", optarg, "a --plugin before it");
			options->plugins[options->nplugins - 1].symbol = optarg;
			break;
		case SEED:
			options->seed = number("--seed", optarg, 0, UINT64_MAX);
			break;
		case BAD:
			options->bad = true;
			break;
		case COMPARE:
			options->compare = true;
			break;
		case JSON:
			options->json = strcmp(optarg, "-") == 0 ? stdout : fopen(optarg, "w");
			if (!options->json) {
				fprintf(stderr, "module-ref-stress: cannot write '%s': %s\n",
					optarg, strerror(errno));
				exit(EXIT_TROUBLE);
			}
			break;
		case TAP:
			options->tap = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(EXIT_SUCCESS);
		case VERSION:
			printf("module-ref-stress %s\n", module_ref_version());
			exit(EXIT_SUCCESS);
		default:
			fputs("Try 'module-ref-stress --help'.\n", stderr);
			exit(EXIT_TROUBLE);
		}
	}
	if (optind < argc)
		trouble("argument", argv[optind], "options only");
	for (unsigned i = 0; i < options->nplugins; i++)
		if (!options->plugins[i].symbol)
			trouble("--plugin", options->plugins[i].file,
				"a --symbol after it that says what to call");
	if (options->bad && (options->layer_counter || options->compare))
		trouble("--bad", options->compare ? "--compare" : "--layer",
			"the module host alone");
	if (!options->layer_host && !options->layer_counter) {
		options->layer_host = true;
		options->layer_counter = options->compare;
	}
	if (options->nplugins == 0) {
		options->relay = beside("relay.so");
		options->keeper = beside("keeper.so");
		options->left = beside("left.so");
		options->right = beside("right.so");
		options->plugins[options->nplugins++] = (struct plugin){
			.file = beside("sample.so"), .symbol = "sample_answer" };
		if (there("libz.so.1"))
			options->plugins[options->nplugins++] =
				(struct plugin){ .file = "libz.so.1", .symbol = "crc32" };
		else
			fputs("module-ref-stress: there is no libz.so.1 here: the sample alone\n",
			      stderr);
	}
}

/* What per-CPU counting is on this system, under a name that says so. Who asks for it and does not
 * get it, or does not get it where it has to be, is told. */
static const struct scheme *percpu_as_it_is(const struct scheme *scheme, const char *layer,
					    bool asked_for)
{
	struct module_ref probe;
	struct scheme *fallback;
	char *name;
	bool percpu;

	if (module_ref_init_percpu(&probe) != 0)
		return scheme; /* the run itself will say why */
	percpu = module_ref_mode(&probe) == MODULE_REF_PERCPU;
	module_ref_destroy(&probe);
	if (!percpu && (asked_for || has_per_cpu())) {
		fprintf(stderr, "module-ref-stress: counters are not per CPU here: %s\n",
			has_per_cpu() ? "the library does not do what the system can" :
					why_not_per_cpu());
		exit(EXIT_TROUBLE);
	}
	if (percpu || !(fallback = malloc(sizeof(*fallback))) ||
	    asprintf(&name, "%s, percpu -> atomic", layer) < 0)
		return scheme;
	*fallback = *scheme;
	fallback->name = name;
	fallback->what = "per-CPU slots were asked for, which this system does not have";
	return fallback;
}

static void on_interrupt(int number)
{
	interrupted = 1;
}

/* What the results say, as an exit status. */
static int verdict(const struct result *results, unsigned done, unsigned wanted)
{
	if (violations())
		return EXIT_VIOLATIONS;
	if (interrupted)
		return EXIT_INTERRUPTED;
	for (unsigned i = 0; i < done; i++)
		if (results[i].gets == 0 || results[i].unloads == 0) {
			fprintf(stderr,
				"module-ref-stress: %s: nothing was tested, with %llu gets and %llu "
				"unloads; try more --seconds or fewer --threads\n",
				results[i].scheme->name, (unsigned long long)results[i].gets,
				(unsigned long long)results[i].unloads);
			return EXIT_TROUBLE;
		}
	return done == wanted ? EXIT_SUCCESS : EXIT_TROUBLE;
}

int main(int argc, char **argv)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct options options = {
		.threads = cpus < 2 ? 4 : (unsigned)cpus * 2,
		.unloaders = 2,
		.seconds = 10,
		.seed = now_ns(),
		.mode_percpu = true,
	};
	/* A second signal ends the program as usual. */
	struct sigaction interrupt = { .sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND };
	const struct scheme *schemes[6];
	struct result results[6];
	unsigned wanted = 0, done;
	/* Standard output is for one machine-readable format at a time. */
	FILE *to = stdout;
	bool percpu_alone;
	int status;

	if (options.threads > MAX_WORKERS)
		options.threads = MAX_WORKERS;
	parse(argc, argv, &options);
	percpu_alone = options.mode_asked && !options.mode_atomic;
	if (options.json == stdout)
		to = stderr;
	if (options.layer_host && options.mode_atomic)
		schemes[wanted++] = &scheme_host_atomic;
	if (options.layer_host && options.mode_percpu)
		schemes[wanted++] = percpu_as_it_is(&scheme_host_percpu, "module host",
						    percpu_alone);
	if (options.layer_counter && options.mode_atomic)
		schemes[wanted++] = &scheme_atomic;
	if (options.layer_counter && options.mode_percpu)
		schemes[wanted++] = percpu_as_it_is(&scheme_percpu, "module_ref", percpu_alone);
	if (options.compare) {
		schemes[wanted++] = &scheme_patch;
		schemes[wanted++] = &scheme_stop_the_world;
	}
	sigaction(SIGINT, &interrupt, NULL);
	sigaction(SIGTERM, &interrupt, NULL);

	fprintf(to,
		"%smodule-ref-stress %s: %u workers, %u unloaders, %ld CPUs, %g s per run\n"
		"%sseed %" PRIu64 "\n",
		options.tap ? "TAP version 13\n# " : "", module_ref_version(), options.threads,
		options.unloaders, cpus, options.seconds, options.tap ? "# " : "", options.seed);
	for (unsigned i = 0; i < options.nplugins; i++)
		fprintf(to, "%splugin %s, calling %s()\n", options.tap ? "# " : "",
			options.plugins[i].file, options.plugins[i].symbol);
	for (done = 0; done < wanted && !interrupted; done++) {
		fprintf(to, "%s%s: %s\n", options.tap ? "# " : "", schemes[done]->name,
			schemes[done]->what);
		fflush(to);
		if (stress_run(&options, schemes[done], &results[done]) != 0)
			break;
	}
	if (interrupted && done > 0)
		fprintf(to, "%sended early, after %.1f s\n", options.tap ? "# " : "",
			results[done - 1].seconds);
	if (done > 0) {
		if (!options.tap)
			fputc('\n', to);
		(options.tap ? report_tap : report_table)(to, &options, results, done);
	}
	status = verdict(results, done, wanted);
	if (options.json && report_json(&options, results, done) != 0) {
		perror("module-ref-stress: cannot write the JSON file");
		status = status ? status : EXIT_TROUBLE;
	}
	if (fflush(to) != 0 || ferror(to)) {
		perror("module-ref-stress: cannot write the results");
		status = status ? status : EXIT_TROUBLE;
	}
	return status;
}
