#include <module_ref.hpp>
#include <cstdio>

static modref::counter counter;

int main(int argc, char **argv)
{
	modref::host host;

	if (argc != 2)
		return 1;
	{
		const modref::guard guard = counter.try_get();

		if (!guard || counter.drain(std::chrono::milliseconds(1)))
			return 2;
	}
	host.load(argv[1], "plugin");
	std::printf("version %s, the answer is %ld\n", module_ref_version(),
		    host.find("plugin").symbol<long()>("answer")());
	if (!host.unload("plugin"))
		return 3;
	host.close();
	return counter.try_release() ? 0 : 4;
}
